"""Default time limits for the network; `net.deadline` says what the numbers mean.

A module of its own: the man pages, made where little is installed, show these numbers.
"""

from __future__ import annotations

TIMEOUT_S = 30.0
MIN_RATE_KIB_S = 16.0
ATTEMPTS = 4
