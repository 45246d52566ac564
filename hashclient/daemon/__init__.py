"""The daemon: other programs ask it about content before they let it in, by clamd's protocol."""
