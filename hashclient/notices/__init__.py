"""Notices: what a provider has to say to all of its clients, besides digests."""
