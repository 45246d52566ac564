"""What is inside of files: archives and mail, opened without trust in what they claim."""
