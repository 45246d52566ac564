"""Sends reports to a service with an API like that of the CyberTipline."""
