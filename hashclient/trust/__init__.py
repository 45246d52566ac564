"""The Update Framework (TUF): from a pinned root to verified bytes."""
