"""Benchmarks: the same work with hashclient, and with a peer program or the least possible code."""
