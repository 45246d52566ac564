"""The daemon: other programs ask it, by clamd's protocol, before they let content in."""
