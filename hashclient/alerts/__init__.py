"""Alerts: what needs a person is said once, where they look, and never with content or digests."""
