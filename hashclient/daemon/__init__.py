"""The daemon, which other programs ask by clamd's protocol whether content matches a list."""
