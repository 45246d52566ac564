"""Man pages and completion scripts: made from the commands and the manual when a wheel is built."""
