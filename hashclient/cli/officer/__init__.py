"""`hashclient-verify`: one file for those who get packages, made of modules of hashclient."""
