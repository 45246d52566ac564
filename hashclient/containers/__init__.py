"""The content of archives and mail, opened without trust in their claims."""
