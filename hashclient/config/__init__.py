"""The text of `config.toml`: what is wrong with it, which of it counts here, and changes to it."""
