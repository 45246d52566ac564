"""Transfers bytes over HTTPS, with credentials, retries, deadlines, tokens and our own errors."""
