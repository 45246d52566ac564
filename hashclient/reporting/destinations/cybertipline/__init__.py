"""Reports to a service of the CyberTipline kind."""
