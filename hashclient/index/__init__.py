"""The blind index of a list: sorted tags on disk, with which digests are compared."""
