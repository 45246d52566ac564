"""Secret keys are found in texts, and kept out of messages."""

from __future__ import annotations

import pytest

from hashclient.system.secrets import holds_secret_key, without_secret_keys
from hashclient.system.text import printable

PEM = "-----BEGIN EC PRIVATE KEY-----\nTWC4\n-----END EC PRIVATE KEY-----"
BLOCK = PEM.replace("KEY", "KEY BLOCK").replace("EC", "PGP")


@pytest.mark.parametrize("form", [str, str.lower, repr, printable])
@pytest.mark.parametrize("key", ["AGE-SECRET-KEY-1TWC4", "AGE-SECRET-KEY-PQ-1TWC4", PEM, BLOCK])
def test_a_secret_key_gives_way_to_words(key: str, form: type[str]) -> None:
    for text in (
        f"no file: {form(key)}: it is absent",
        f"no file: {form(key[: key.find('4') + 1])}",
    ):
        assert holds_secret_key(text)
        shown = without_secret_keys(text)
        assert shown.startswith("no file: ") and "twc4" not in shown.lower()
        assert "(a secret key)" in shown and shown.endswith("absent") is text.endswith("absent")


@pytest.mark.parametrize("text", ["", "age1x", "a private key", "-----BEGIN PUBLIC KEY-----\nx"])
def test_another_text_stays_as_it_is(text: str) -> None:
    assert not holds_secret_key(text)
    assert without_secret_keys(text) == text
