"""Sources: a source lists the inputs of a scan."""
