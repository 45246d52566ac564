"""`hashclient-verify`: a one-file program for recipients, built from modules of hashclient."""
