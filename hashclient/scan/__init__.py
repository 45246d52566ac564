"""From paths or digests to recorded outcomes: reading, matching, recording, acting."""
