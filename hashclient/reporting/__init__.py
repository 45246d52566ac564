"""Reports: what was found, handed over to whom it has to go, once and provably."""
