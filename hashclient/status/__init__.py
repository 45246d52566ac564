"""What is here, for people and for Prometheus."""
