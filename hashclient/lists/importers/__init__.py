"""Importers for the usual files of digests, one module for each kind; `registry` chooses one."""
