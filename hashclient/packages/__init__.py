"""What recipients read: packages, notes and answers as bytes, verified on any machine."""
