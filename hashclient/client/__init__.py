"""The interface for front ends and programs: `Client`, and the upkeep that it does."""
