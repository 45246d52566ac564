"""What recipients read: packages, notes and answers, verified on any machine."""
