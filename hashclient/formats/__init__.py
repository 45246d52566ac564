"""Writes outcomes in several formats: a module for each format, and the interface of all."""
