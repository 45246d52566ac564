"""Hash lists: the wire format, and files of digests that are read into it."""
