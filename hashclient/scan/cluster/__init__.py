"""Many machines: what a scan and the workers of a Dask cluster say to each other, and do."""
