"""Hands reports over as packages, which may be encrypted."""
