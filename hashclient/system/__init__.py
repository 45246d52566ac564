"""The operating system: files, locks, secrets, memory, file systems, and text for people."""
