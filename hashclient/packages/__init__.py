"""Parses and verifies what recipients get: packages, notes and answers."""
