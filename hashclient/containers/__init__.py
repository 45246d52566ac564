"""Opens archives and mail, without trusting any claim that the bytes of a file make."""
