"""Files isolated (encrypted and removed), kept, restored and destroyed."""
