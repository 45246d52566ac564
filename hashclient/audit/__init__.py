"""The audit log: appending, reading and verifying records, and checkpoints."""
