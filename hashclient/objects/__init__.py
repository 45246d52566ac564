"""Objects in the buckets of object stores: listing a bucket, and reading ranges of one object."""
