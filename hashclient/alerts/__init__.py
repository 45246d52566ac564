"""Alerts: messages about problems that need a person, without content or digests."""
