"""The age format behind the project's errors: against the age tool and failing streams."""

from __future__ import annotations

import io
import os
import shutil
import subprocess
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ed25519, rsa

from hashclient.core.agefile import looks_sealed, parse_header, sealed_bytes
from hashclient.core.errors import (
    AuthorisationError,
    ConfigError,
    HashclientError,
    StateError,
    UsageError,
)
from hashclient.quarantine.age import (
    EXAMPLE_RECIPIENT,
    canonical_recipient,
    load_identities,
    parse_recipients,
    seal,
    unseal,
    write_identity,
)

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
#: Sizes around the length of a chunk, where a chunked format can fail.
SIZES = [0, 1, 65_535, 65_536, 65_537, 200_000]

needs_age = pytest.mark.skipif(shutil.which("age") is None, reason="the age tool is missing")
needs_ssh = pytest.mark.skipif(shutil.which("ssh-keygen") is None, reason="no ssh-keygen")


@pytest.fixture
def key(tmp_path: Path) -> Path:
    write_identity(tmp_path / "officer.key", NOW)
    return tmp_path / "officer.key"


def public(key: Path) -> str:
    return key.read_text().split("public key: ")[1].split()[0]


def sealed(data: bytes, *recipients: str) -> bytes:
    out = io.BytesIO()
    seal(io.BytesIO(data).read, out.write, parse_recipients(recipients))
    return out.getvalue()


def opened(data: bytes, *keys: Path) -> bytes:
    out = io.BytesIO()
    identities = [identity for key in keys for identity in load_identities(key)]
    unseal(io.BytesIO(data).read, out.write, identities)
    return out.getvalue()


@pytest.mark.parametrize("size", SIZES)
def test_a_sealed_copy_opens_and_has_the_computed_length(key: Path, size: int) -> None:
    data = os.urandom(size)
    copy = sealed(data, public(key))
    assert opened(copy, key) == data
    header = parse_header(copy)
    assert header.recipients == 1
    assert sealed_bytes(header.header_bytes, size) == len(copy)


@needs_age
@pytest.mark.parametrize("size", SIZES)
def test_the_age_tool_opens_it_and_is_opened(key: Path, size: int, tmp_path: Path) -> None:
    data = os.urandom(size)
    copy = tmp_path / "evidence.age"
    copy.write_bytes(sealed(data, public(key)))
    done = subprocess.run(["age", "-d", "-i", key, copy], capture_output=True, check=True)
    assert done.stdout == data
    theirs = subprocess.run(
        ["age", "-r", public(key)], input=data, capture_output=True, check=True
    ).stdout
    assert opened(theirs, key) == data
    assert sealed_bytes(parse_header(theirs).header_bytes, size) == len(theirs)


def test_each_of_several_recipients_opens_it(tmp_path: Path) -> None:
    keys = [tmp_path / name for name in ("a", "b", "c")]
    publics = [write_identity(path, NOW) for path in keys]
    copy = sealed(b"benign", *publics[:2])
    assert parse_header(copy).recipients == 2
    assert [opened(copy, path) for path in keys[:2]] == [b"benign"] * 2
    with pytest.raises(AuthorisationError, match="none of the identities opens") as refused:
        opened(copy, keys[2])
    assert "`hashclient quarantine show ID`" in (refused.value.hint or "")


@pytest.mark.parametrize(
    ("kind", "comment"), [("ed25519", ""), ("ed25519", " me@example.org"), ("rsa", " officer")]
)
def test_an_ssh_key_that_was_made_by_a_library_is_a_key(
    tmp_path: Path, kind: str, comment: str
) -> None:
    private: Any = (
        ed25519.Ed25519PrivateKey.generate()
        if kind == "ed25519"
        else rsa.generate_private_key(65537, 2048)
    )
    form = serialization
    path = tmp_path / "id"
    path.touch(0o600)
    path.write_bytes(
        private.private_bytes(form.Encoding.PEM, form.PrivateFormat.OpenSSH, form.NoEncryption())
    )
    public_key = private.public_key()
    public = public_key.public_bytes(form.Encoding.OpenSSH, form.PublicFormat.OpenSSH).decode()
    assert opened(sealed(b"benign", f"{public}{comment}\n"), path) == b"benign"
    assert canonical_recipient(f" {public}{comment}\n") == public


@pytest.mark.parametrize(
    ("text", "normal"),
    [
        (" age1QPZ \n", "age1qpz"),
        ("ssh-ed25519 AAaa me@host and more", "ssh-ed25519 AAaa"),
        ("ssh-rsa  AAaa", "ssh-rsa AAaa"),
        ("ssh-dss AAaa", "ssh-dss aaaa"),
    ],
)
def test_public_keys_are_compared_in_their_normal_form(text: str, normal: str) -> None:
    assert canonical_recipient(text) == normal


@needs_ssh
@pytest.mark.parametrize("kind", ["ed25519", "rsa"])
def test_ssh_keys_are_keys(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "id"
    subprocess.run(["ssh-keygen", "-q", "-t", kind, "-N", "", "-f", path], check=True)
    copy = sealed(b"benign", (tmp_path / "id.pub").read_text())
    assert opened(copy, path) == b"benign"
    assert parse_header(copy).recipients == 1


@needs_ssh
def test_an_encrypted_ssh_key_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "id"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "secret", "-f", path], check=True)
    with pytest.raises(ConfigError, match="must be decrypted first"):
        load_identities(path)


class Fails:
    """A sink or source that fails at its call `number`."""

    def __init__(self, number: int, error: BaseException) -> None:
        self.left = number
        self.error = error

    def __call__(self, _argument: Any) -> bytes:
        self.left -= 1
        if self.left == 0:
            raise self.error
        return b"x" * 8192


@pytest.mark.parametrize("error", [OSError(28, "full"), StateError("ours"), KeyboardInterrupt()])
@pytest.mark.parametrize("number", [1, 2, 3])
def test_no_error_of_a_sink_is_dropped(key: Path, number: int, error: BaseException) -> None:
    """The last write happens when a buffer is freed, where the library ignores errors."""
    calls: list[bytes] = []
    seal(io.BytesIO(b"x" * 70_000).read, calls.append, parse_recipients([public(key)]))
    assert len(calls) == 3
    sink = Fails(number, error)
    with pytest.raises(type(error)) as raised:
        seal(io.BytesIO(b"x" * 70_000).read, sink, parse_recipients([public(key)]))
    assert raised.value is error


@pytest.mark.parametrize("error", [OSError(5, "broken disk"), KeyboardInterrupt()])
def test_an_error_of_a_source_comes_as_it_is(key: Path, error: BaseException) -> None:
    with pytest.raises(type(error)) as raised:
        seal(Fails(3, error), io.BytesIO().write, parse_recipients([public(key)]))
    assert raised.value is error


def test_what_cannot_be_encrypted_is_an_error_of_the_state() -> None:
    sent: list[bytes] = []
    with pytest.raises(StateError, match=r"^cannot encrypt: "):
        seal(io.BytesIO(b"benign").read, sent.append, [])


def test_errors_while_opening_come_as_they_are(key: Path) -> None:
    copy = sealed(b"x" * 70_000, public(key))
    full = OSError(28, "full")
    with pytest.raises(OSError) as raised:
        unseal(io.BytesIO(copy).read, Fails(1, full), load_identities(key))
    assert raised.value is full


@pytest.mark.parametrize(
    "damage",
    [
        lambda copy: copy[:-1],
        lambda copy: copy[: len(copy) // 2],
        lambda copy: copy[:50],
        lambda copy: copy + b"x",
        lambda copy: copy[:-20] + bytes([copy[-20] ^ 1]) + copy[-19:],
        lambda copy: b"",
        lambda copy: b"not an age file at all",
    ],
    ids=["a byte short", "half", "header cut", "a byte more", "a bit", "empty", "other"],
)
def test_damage_is_reported(key: Path, damage: Any) -> None:
    with pytest.raises(StateError, match="cannot decrypt"):
        opened(damage(sealed(b"x" * 100_000, public(key))), key)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"age-encryption.org/v1\n-> X25519 abc\nabc\n",
        b"age-encryption.org/v2\n--- " + b"A" * 43 + b"\n",
        b"age-encryption.org/v1\n" + b"-> x y\n" * 20_000 + b"--- " + b"A" * 43 + b"\n",
    ],
)
def test_a_file_without_a_valid_header_is_no_age_file(data: bytes) -> None:
    with pytest.raises(StateError, match="not a file in the age format"):
        parse_header(data)


@pytest.mark.parametrize(
    ("head", "looks"),
    [
        (b"age-encr", True),
        (b"age-encryption.org/v2\n", True),
        (b"age\0encryption.org/v1\n-> X25519 abc\n", True),
        (b"agenda\n", False),
        (b"age-encryption.html\n", False),
        (b"an age\n-> x y\n", False),
    ],
)
def test_a_damaged_age_file_is_told_from_other_files(head: bytes, looks: bool) -> None:
    assert looks_sealed(head) is looks


def test_a_secret_key_among_the_recipients_is_never_repeated(key: Path) -> None:
    secret = key.read_text().split()[-1]
    for text in (secret, secret.lower(), key.read_text(), f"ssh-ed25519 AAAA {secret}"):
        with pytest.raises(ConfigError, match="a secret key stands where") as raised:
            parse_recipients([text])
        assert secret[:20] not in f"{raised.value.message} {raised.value.hint}".upper()


@pytest.mark.parametrize(
    "text", [f"-----begin {kind}private key-----\nTWC4" for kind in ("", "openssh ", "rsa ")]
)
def test_a_private_key_in_pem_is_not_repeated_either(text: str) -> None:
    for form in (text, text.upper(), f"a comment\n{text}"):
        with pytest.raises(ConfigError, match="a secret key stands where") as raised:
            parse_recipients([form])
        assert "TWC4" not in f"{raised.value.message} {raised.value.hint}"


@pytest.mark.parametrize("text", ["correct horse", "age1x\ncorrect horse", "horse-ed25519 x"])
def test_a_text_without_the_shape_of_a_public_key_is_not_repeated(text: str) -> None:
    with pytest.raises(ConfigError, match="not an age public key: it ") as raised:
        parse_recipients([text])
    assert "horse" not in f"{raised.value.message} {raised.value.hint}"


@pytest.mark.parametrize("text", ["", "age1junk", "ssh-ed25519 AAAA", "ssh-dss AAAA", "\0"])
def test_an_invalid_public_key_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="not an age public key") as refused:
        parse_recipients([text])
    assert "keygen" in (refused.value.hint or "")


def test_the_key_of_an_example_is_refused_as_a_recipient() -> None:
    from pyrage import x25519

    assert x25519.Recipient.from_str(EXAMPLE_RECIPIENT)  # the key looks like any other key
    for texts in ([EXAMPLE_RECIPIENT], [f" {EXAMPLE_RECIPIENT}\n"]):
        with pytest.raises(ConfigError, match="example in the documents") as refused:
            parse_recipients(texts)
        assert "the public key of an officer" in (refused.value.hint or "")


def test_recipients_must_be_configured() -> None:
    with pytest.raises(ConfigError, match="no recipients") as raised:
        parse_recipients([])
    assert raised.value.hint is not None and "keygen" in raised.value.hint


def test_an_identity_file_may_hold_several_keys_and_comments(tmp_path: Path) -> None:
    publics = [write_identity(tmp_path / name, NOW) for name in ("a", "b")]
    both = tmp_path / "both"
    both.write_text("".join((tmp_path / name).read_text() + "\n  \n" for name in ("a", "b")))
    both.chmod(0o600)
    assert [opened(sealed(b"benign", p), both) for p in publics] == [b"benign"] * 2


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "holds no key"),
        ("# only a comment\n", "holds no key"),
        ("AGE-SECRET-KEY-1JUNK\n", "not an identity file"),
        ("-----BEGIN OPENSSH PRIVATE KEY-----\n", "not an identity file"),
        ("age-encryption.org/v1\n-> scrypt x\n", "is encrypted"),
        ("-----BEGIN AGE ENCRYPTED FILE-----\n", "is encrypted"),
    ],
)
def test_an_invalid_identity_file_is_refused(tmp_path: Path, text: str, why: str) -> None:
    path = tmp_path / "key"
    path.write_text(text)
    path.chmod(0o600)
    with pytest.raises(ConfigError, match=why) as refused:
        load_identities(path)
    advice = {"is encrypted": "decrypt it first", "not an identity file": "`age-keygen` wrote"}
    assert advice.get(why, "keygen") in (refused.value.hint or "")


def test_an_identity_that_others_can_read_is_refused(key: Path) -> None:
    key.chmod(0o640)
    with pytest.raises(ConfigError, match="can be read by others"):
        load_identities(key)


def test_a_key_file_says_when_it_was_made_and_for_which_public_key(tmp_path: Path) -> None:
    path = tmp_path / "new.key"
    made = write_identity(path, NOW.replace(microsecond=5))
    first, second, third = path.read_text().splitlines()
    assert first == "# created: 2026-03-01T12:00:00+00:00"
    assert second == f"# public key: {made}" and made.startswith("age1")
    assert third.startswith("AGE-SECRET-KEY-1")


def test_a_new_key_is_private_and_never_overwrites(key: Path, tmp_path: Path) -> None:
    assert key.stat().st_mode & 0o777 == 0o600
    before = key.read_bytes()
    with pytest.raises(UsageError, match="file exists"):
        write_identity(key, NOW)
    with pytest.raises(UsageError, match="cannot write"):
        write_identity(tmp_path / "none" / "key", NOW)
    assert key.read_bytes() == before


@pytest.mark.skipif(shutil.which("age-keygen") is None, reason="age-keygen is missing")
def test_the_age_tool_reads_the_key(key: Path) -> None:
    done = subprocess.run(["age-keygen", "-y", key], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == public(key)


def test_errors_are_ours(key: Path) -> None:
    with pytest.raises(HashclientError):
        opened(b"junk", key)
