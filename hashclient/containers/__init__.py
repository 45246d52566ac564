"""Opens archives and mail; sizes, names and checksums in a file may be false."""
