"""The inventory: what scans remember of files and of members of containers."""
