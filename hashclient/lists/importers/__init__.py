"""Files of digests as people have them, one module a kind; `registry` picks the one to read."""
