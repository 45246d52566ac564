"""Bytes over HTTPS: addresses and credentials, retries, deadlines, tokens, errors."""
