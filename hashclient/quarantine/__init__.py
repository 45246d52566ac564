"""Files encrypted and taken away, kept, restored and destroyed."""
