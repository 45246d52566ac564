"""What builds the OCI image."""
