"""Reports: matches are handed over to a body, once and provably."""
