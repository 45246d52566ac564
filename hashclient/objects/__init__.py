"""Objects in buckets: naming a store, listing it, reading ranges of one object."""
