"""Inputs for the gateways: files and mails of each kind that a gateway can meet.

`FILES` are for programs that ask about files, `MAILS` for programs that ask about mail. A door is
configured with `CONFIGURATION` and `OPTIONS`, so that files over a limit are still small.
"""

from __future__ import annotations

import base64
import random

from fixtures.archives import STORED, Zip, many_empty, zip_of
from fixtures.mails import mail_of

LISTED = b"a benign dummy that the list names " * 20
#: The listed bytes behind the magic bytes of a film or a picture.
FILM = b"\0\0\0\x18ftypmp42" + LISTED
PICTURE = b"RIFF\xd0\x02\0\0WEBPVP8 " + LISTED
#: An archive whose own content is listed, and whose member is not listed.
LISTED_ARCHIVE = zip_of({"a": b"benign"})
ENTRIES = {"e-1": LISTED, "e-zip": LISTED_ARCHIVE, "e-film": FILM, "e-picture": PICTURE}
#: A limit in bytes that the input `over` exceeds.
CONFIGURATION = "[scan.containers]\nmembers = 1000\n"
OPTIONS = ("--max-stream-mib", 1)

_NOISE = random.Random(14).randbytes(2 << 20)
_ENCRYPTED = Zip().add(b"secret", b"cannot be read", STORED, flags=1).end()
_MANY = many_empty(1200)

FILES = {
    "clean": b"a benign dummy",
    "match": LISTED,
    "film": FILM,
    "picture": PICTURE,
    "archive": zip_of({"a": b"benign", "b": LISTED}),
    "whole": LISTED_ARCHIVE,
    "mail": bytes(mail_of({"a.bin": LISTED})),
    "unread": _ENCRYPTED,
    "over": _MANY,
    "long": _NOISE,
}

#: In mail, all of these files are attachments; `mail` is a forwarded mail with an attachment.
MAILS = {
    "clean": bytes(mail_of({"a.bin": b"a benign dummy"})),
    "match": bytes(mail_of({"a.bin": LISTED})),
    "archive": bytes(mail_of({"a.zip": FILES["archive"]})),
    "whole": bytes(mail_of({"a.zip": LISTED_ARCHIVE})),
    "mail": bytes(mail_of({}, inner=[mail_of({"a.bin": LISTED})])),
    "unread": bytes(mail_of({"a.zip": _ENCRYPTED})),
    "over": bytes(mail_of({"a.zip": _MANY})),
    "long": bytes(mail_of({"a.bin": _NOISE})),
}

FOUND = ("match", "archive", "whole", "mail")
FOUND_FILES = (*FOUND, "film", "picture")
WITHOUT_VERDICT = ("unread", "over")

#: A part whose header does not call it an attachment, with bytes of no known kind.
INLINE = (
    b"From: sender@example.org\nTo: receiver@example.org\nSubject: benign\n"
    b"MIME-Version: 1.0\nContent-Type: multipart/mixed; boundary=xx\n\n"
    b"--xx\nContent-Type: text/plain\n\nbenign\n"
    b"--xx\nContent-Type: text/plain\nContent-Transfer-Encoding: base64\n\n"
    + base64.encodebytes(LISTED)
    + b"--xx--\n"
)

#: A mail that looks like two mails to a program that reads its file as a mailbox, which hides an
#: attachment.
_HEAD, _FIRST, _SECOND = MAILS["match"].partition(b"benign text\n")
SPLIT = _HEAD + _FIRST + b"\nFrom x@example.org Fri May  1 12:00:00 2026\nX-A: b\n\n" + _SECOND
