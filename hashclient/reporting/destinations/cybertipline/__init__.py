"""Reports to a service with an API like the CyberTipline's."""
