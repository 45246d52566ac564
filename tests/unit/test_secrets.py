"""Secret keys are found in texts, and kept out of messages."""

from __future__ import annotations

import pytest

from hashclient.system.secrets import holds_secret_key, without_secret_keys
from hashclient.system.text import printable

AGE = "AGE-SECRET-KEY-"
BODY = "QYQSZQGPQYQTWC4"
PEM = "-----BEGIN EC PRIVATE KEY-----\nTWC4\n-----END EC PRIVATE KEY-----"
BLOCK = PEM.replace("KEY", "KEY BLOCK").replace("EC", "PGP")


@pytest.mark.parametrize("form", [str, str.lower, repr, printable])
@pytest.mark.parametrize("key", [f"{AGE}1{BODY}", f"{AGE}PQ-1{BODY}", PEM, BLOCK])
def test_a_secret_key_gives_way_to_words(key: str, form: type[str]) -> None:
    for text in (
        f"no file: {form(key)}: it is absent",
        f"no file: {form(key[: key.find('4') + 1])}",
    ):
        assert holds_secret_key(text)
        shown = without_secret_keys(text)
        assert shown.startswith("no file: ") and "twc4" not in shown.lower()
        assert "(a secret key)" in shown and shown.endswith("absent") is text.endswith("absent")


def test_a_secret_key_that_is_mistyped_or_without_its_first_word_is_one() -> None:
    for text in (f"{AGE}1QB{BODY * 4}", f"x: {PEM[14:]}: y", f"x: {printable(PEM[14:])}: y"):
        assert "TWC4" not in without_secret_keys(text)


@pytest.mark.parametrize(
    "text",
    [
        *("", "age1x", "a private key", "-----BEGIN PUBLIC KEY-----\nx"),
        "cannot read: /etc/age-secret-key-2026.txt",
        "cannot read: /etc/AGE-SECRET-KEY-1/age-secret-key-15032026.txt",
        "cannot read: /etc/age-secret-key-1-of-the-office.txt",
        "cannot read: age-secret-key-backup.toml: age-secret-key-docs",
        "unread: /srv/x/My private key-----notes.txt and more text that follows",
    ],
)
def test_another_text_stays_as_it_is(text: str) -> None:
    assert not holds_secret_key(text)
    assert without_secret_keys(text) == text
