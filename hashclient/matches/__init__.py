"""The record of matches: each match, and the actions on it."""
