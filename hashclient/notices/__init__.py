"""Notices: messages of a provider to all of its clients."""
