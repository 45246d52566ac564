"""The program that builds the OCI image."""
