"""Sources of inputs."""
