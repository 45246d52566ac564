"""The text of `config.toml`: faults, the settings that apply here, and changes."""
