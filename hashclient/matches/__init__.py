"""The record of matches: a database of all matches and of the actions on each match."""
