"""What was found, and what became of it."""
