"""The index of a list: an encrypted tag for each digest of the list, sorted, on the disk."""
