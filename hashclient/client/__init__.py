"""What front ends and programs use: one object for all of it, and the upkeep that it does."""
