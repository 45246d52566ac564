"""What runs the checking of inputs."""
