"""The text of `config.toml`: its faults, the settings that apply here, and changes to it."""
