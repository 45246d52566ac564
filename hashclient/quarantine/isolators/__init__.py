"""How what matched is held, read and removed where it is: one module a kind of place."""
