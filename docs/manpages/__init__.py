"""Man pages and completion scripts, made from the commands and the manual for each wheel."""
