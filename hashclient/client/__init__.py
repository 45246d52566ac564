"""The interface for front ends and programs: one class, and the upkeep that it does."""
