"""Sends mail to a server on loopback, and returns the result in one word."""

from __future__ import annotations

import smtplib

SENDER, RECEIVER = "sender@example.org", "receiver@example.org"
#: Seconds; scanners give up sooner.
TIMEOUT_S = 60


def sent(port: int, mail: bytes) -> str:
    """Send a mail; return `taken`, `refused` (for good) or `put off` (the sender tries again)."""
    with smtplib.SMTP("127.0.0.1", port, "localhost", TIMEOUT_S) as server:
        try:
            server.sendmail(SENDER, [RECEIVER], mail)
        except smtplib.SMTPDataError as error:
            return "refused" if error.smtp_code >= 500 else "put off"
    return "taken"
