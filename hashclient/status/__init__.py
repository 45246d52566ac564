"""The status of a state directory, for people and for Prometheus."""
