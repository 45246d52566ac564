"""Access to the operating system (files, locks, secrets, memory), and text for people."""
