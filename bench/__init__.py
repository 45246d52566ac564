"""Benchmarks that run the same work with hashclient and with a peer program or a floor."""
