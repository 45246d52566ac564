"""`hashclient-verify`: a one-file program for recipients of reports, built from modules."""
