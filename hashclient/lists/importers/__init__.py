"""Importers for the usual files of digests, one module for each kind; `registry` picks one."""
