"""An overview of many machines, each of which publishes a signed status document."""
