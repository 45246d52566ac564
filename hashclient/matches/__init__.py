"""The record of matches: what was found, and what was done about it."""
