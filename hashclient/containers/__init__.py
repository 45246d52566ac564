"""Opens archives and mail, without trusting any claim in these files."""
