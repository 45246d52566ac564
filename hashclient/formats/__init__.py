"""How outcomes are written: one module a format, and the interface of them all."""
