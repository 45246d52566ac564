"""Side-by-side benchmarks: the same work, in the same run, by us and by a peer or the floor."""
