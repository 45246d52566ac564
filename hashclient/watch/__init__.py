"""Folders that nobody asks about: what changes in them is checked as it changes."""
