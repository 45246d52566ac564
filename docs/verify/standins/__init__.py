"""Modules that take the place of compiled ones in the one-file tool."""
