"""The work of one process: files are opened, read and judged, and so are members and streams."""
