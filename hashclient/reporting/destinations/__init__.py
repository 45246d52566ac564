"""What a report is handed over to."""
