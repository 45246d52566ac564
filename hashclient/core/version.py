"""The version of this program.

This module has no other content because the build reads it as text.
"""

__version__ = "1.0.0"
