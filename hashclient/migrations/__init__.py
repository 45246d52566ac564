"""State of every earlier version is brought to today's form; that of a later one is refused."""
