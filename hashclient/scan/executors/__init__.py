"""Executors: they run the checking of inputs."""
