"""`hashclient-verify`, the one file for recipients of packages: made when a release is made."""
