"""Open, read and remove a matched file or object; each module is for one kind of place."""
