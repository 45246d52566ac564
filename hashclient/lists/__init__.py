"""Hash lists: the wire format, and importers of files of digests."""
