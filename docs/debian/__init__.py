"""What builds Debian's package."""
