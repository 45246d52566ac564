"""Decisions about matches before any action, by people and by their limits."""
