"""The version of this program, in a module of its own, since the build reads it as text."""

__version__ = "0.1.0"
