"""The audit log: append, read, verify, checkpoints."""
