"""The check of files in one process: open files, read them, and judge them and their members."""
