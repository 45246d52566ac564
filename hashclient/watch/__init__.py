"""Watched folders: files in them are checked when they change."""
