"""Scans: check files or digests against the lists, record the outcomes, and act on matches."""
