"""The command line. A command parses options, calls one function of a room, and prints."""
