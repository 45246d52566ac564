"""Watched folders: files in the folders are checked when they change."""
