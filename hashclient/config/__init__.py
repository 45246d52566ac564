"""Reads and changes `config.toml`: tables, faults, and the settings of a run."""
