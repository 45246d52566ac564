"""Reports: matches handed over to a body, once and provably."""
