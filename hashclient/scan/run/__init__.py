"""A run: its parts are made and joined, and what it finds is recorded and acted upon."""
