"""Values and rules: inputs, digests, hits and verdicts. No I/O."""
