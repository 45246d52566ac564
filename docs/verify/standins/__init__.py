"""Modules that replace compiled modules in the one-file program `hashclient-verify`."""
