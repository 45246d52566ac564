"""The command line: parse, call one function, render, exit. The only place that prints."""
