"""Brings the state of every earlier version to today's form; refuses that of a later version."""
