"""Rulings, limits and reviews that people set: they decide which matches may be acted upon."""
