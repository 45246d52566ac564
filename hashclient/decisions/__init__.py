"""What people, and the limits that they set, say about matches before anything is done."""
