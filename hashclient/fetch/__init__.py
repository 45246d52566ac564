"""Brings the lists of a provider into the index: pins, fetches, builds, and records withdrawals."""
