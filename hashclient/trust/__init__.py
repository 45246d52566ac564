"""The Update Framework: from a pinned root to verified bytes."""
