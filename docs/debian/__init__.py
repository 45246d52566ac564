"""The program that builds hashclient's package for Debian."""
