"""The build of `hashclient-verify`, the one-file program for recipients of packages."""
