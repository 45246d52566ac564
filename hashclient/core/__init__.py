"""Values and rules: what an input, a digest, a hit and a verdict are. No I/O."""
