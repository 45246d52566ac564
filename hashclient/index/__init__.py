"""The blind index: sorted tags on disk, looked up, written, merged and matched."""
