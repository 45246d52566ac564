"""The provider's side: a repository of hash lists, its keys and entries, a server for trials."""
