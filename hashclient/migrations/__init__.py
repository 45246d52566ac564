"""Brings the state of every earlier release to today's form; refuses any other state."""
