"""Importers for the usual files of digests, a module for each kind; `registry` picks one."""
