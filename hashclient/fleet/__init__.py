"""An overview of many machines: each publishes a signed status document."""
