"""Scans on many machines: the client and the workers of a Dask cluster."""
