"""The daemon: other programs ask it, by clamd's protocol, whether content matches a list."""
