"""Notices: messages of a provider to all its clients."""
