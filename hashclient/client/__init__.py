"""The interface for front ends and programs: one object, and the upkeep that it does."""
