"""The destinations to which reports are handed over."""
