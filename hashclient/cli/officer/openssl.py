"""Finds programs on this machine, runs `openssl`, and signs with `openssl`."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from hashclient.core.errors import UsageError
from hashclient.system.files import temporary_file_errors
from hashclient.system.text import printable


def find_program(name: str) -> str:
    """Return the path of a program in a directory of the variable `PATH`.

    Relative directories in `PATH` are ignored, because they are below the current directory, into
    which somebody may have unpacked a package with a program of this name.

    Raises:
        FileNotFoundError: `PATH` has no program of this name.
    """
    folders = filter(os.path.isabs, os.get_exec_path())
    found = shutil.which(name, path=os.pathsep.join(folders))
    if found is None:
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), name)
    return found


#: The bytes that precede the 32 bytes of an Ed25519 public key in DER (RFC 8410).
PUBLIC_PREFIX = bytes.fromhex("302a300506032b6570032100")


@contextlib.contextmanager
def files_for_openssl(files: Mapping[str, bytes]) -> Iterator[str]:
    """Write files by name into a temporary directory, which exists during the block.

    Raises:
        StateError: the files cannot be written.
    """
    with temporary_file_errors(), tempfile.TemporaryDirectory() as directory:
        for name, data in files.items():
            Path(directory, name).write_bytes(data)
        yield directory


def run_openssl(words: list[str], directory: str | None = None) -> bytes | None:
    """Run `openssl`; return its output, or None if it fails.

    Raises:
        UsageError: `openssl` is missing.
    """
    try:
        command = [find_program("openssl"), *words]
        done = subprocess.run(command, cwd=directory, capture_output=True, check=False)
    except OSError as error:
        raise no_openssl() from error
    return done.stdout if done.returncode == 0 else None


def no_openssl() -> UsageError:
    """Return the error for a machine without a usable `openssl`."""
    return UsageError(
        "no program called openssl can verify Ed25519 signatures here",
        hint="install OpenSSL 3; nothing was verified",
    )


def sign_with(key: Path) -> tuple[bytes, Callable[[bytes], bytes]]:
    """Return the public key of a secret key in PEM, and a function that signs with the secret key.

    Raises:
        UsageError: the key is not an Ed25519 key, or `openssl` cannot use it.
    """
    path = str(key.absolute())
    public = run_openssl(["pkey", "-in", path, "-pubout", "-outform", "DER"])
    if (
        public is None
        or not public.startswith(PUBLIC_PREFIX)
        or len(public) != len(PUBLIC_PREFIX) + 32
    ):
        raise UsageError(
            f"not an Ed25519 key that openssl can use: {printable(key)}",
            hint="`openssl genpkey -algorithm ed25519 -out FILE` makes one",
        )

    def sign(message: bytes) -> bytes:
        with files_for_openssl({"message": message}) as directory:
            words = ["pkeyutl", "-sign", "-inkey", path, "-rawin", "-in", "message"]
            signature = run_openssl(words, directory)
        if signature is None:
            raise UsageError(f"openssl cannot sign with {printable(key)}")
        return signature

    return public[len(PUBLIC_PREFIX) :], sign
