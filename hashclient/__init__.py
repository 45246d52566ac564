"""Check files against signed hash lists from an authorised provider.

The package root holds nothing but the version, so that importing it costs nothing.
"""

__version__ = "0.1.0"
