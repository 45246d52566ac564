"""The other side: a repository of hash lists, its keys and entries, a server for trials."""
