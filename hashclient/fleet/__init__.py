"""Many machines at one glance: each publishes a signed status document, and one place reads all."""
