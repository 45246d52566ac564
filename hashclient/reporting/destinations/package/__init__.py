"""Reports as an encrypted package."""
