"""Decrypts age files as streams, with the program `age`."""

from __future__ import annotations

import os
import subprocess
import threading
from collections.abc import Generator, Iterator, Sequence
from pathlib import Path

from hashclient.cli.officer.openssl import find_program
from hashclient.core.errors import AuthorisationError, StateError, UsageError
from hashclient.packages.contents import Opener
from hashclient.packages.tarstream import CHUNK_BYTES
from hashclient.system.text import excerpt


def opener_of(keys: Sequence[Path]) -> Opener:
    """Return a function that decrypts age files with the secret keys in the files `keys`."""
    words = ["--decrypt", *(word for key in keys for word in ("-i", str(key.absolute())))]
    return lambda sealed: _opened(words, sealed)


def _opened(words: list[str], sealed: Iterator[bytes]) -> Generator[bytes]:
    failures: list[Exception] = []

    def feed() -> None:
        assert process.stdin is not None
        try:
            with process.stdin as sink:
                for chunk in sealed:
                    sink.write(chunk)
        except Exception as error:  # noqa: BLE001 - the error is raised in the thread that reads
            failures.append(error)

    # The messages of `age` are kept in memory, because a disk may be full.
    with os.fdopen(os.memfd_create("age"), "w+b") as said:
        try:
            process = subprocess.Popen(
                [find_program("age"), *words],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=said,
            )
        except OSError as error:
            raise UsageError(
                "no program called age can open the sealed files here",
                hint="install age (https://age-encryption.org)",
            ) from error
        assert process.stdout is not None
        feeder = threading.Thread(target=feed)
        feeder.start()
        try:
            while chunk := process.stdout.read(CHUNK_BYTES):
                yield chunk
            process.wait()
        finally:
            process.stdout.close()
            # If the caller has not read the whole output, `age` is still running.
            process.kill()
            code = process.wait()
            feeder.join()
        said.seek(0)
        message = said.read().decode(errors="replace")
    # A BrokenPipeError means that `age` ended early. BrokenPipeError is ignored, because the
    # message of `age` says why `age` ended.
    failures = [error for error in failures if not isinstance(error, BrokenPipeError)]
    if failures:
        raise failures[0]
    if code != 0:
        raise _failure(message)


def _failure(message: str) -> Exception:
    first = message.strip().partition("\n")[0].removeprefix("age: error: ")
    if "no identity matched" in message:
        return AuthorisationError(
            "the key does not open the file", hint="give another key with --identity"
        )
    if "identity" in message or "private key" in message:
        return UsageError(f"age cannot use the key: {excerpt(first)}")
    return StateError(f"age cannot open the file: {excerpt(first)}")
