"""Alerts: messages about problems that need a person, sent once, without content or digests."""
