"""A run: its parts are made and joined, and its outcomes are recorded and acted upon."""
