"""The quarantine, where matched files are sealed and kept until they are restored or destroyed."""
