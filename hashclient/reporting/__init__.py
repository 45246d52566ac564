"""Reports, each of which hands matches over to an authority or a hotline, once and with proof."""
