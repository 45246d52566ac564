"""Values and rules: inputs, digests, hits and verdicts, without I/O."""
