"""Runs the schema of a service in a process of its own, with bounded time and memory.

A schema is foreign input. A small schema can keep a validator busy for years or use all memory, by
a pattern that backtracks or a content model that explodes. In this sandbox, a hostile schema only
fails one attempt at one report. The process gets the schema, then documents, and answers each with
its fault or nothing. When the process dies or takes too long, the schema is not usable.
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import selectors
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import IO

from hashclient.core.errors import ConfigError, HashclientError, VerificationError
from hashclient.reporting.destinations.cybertipline.xml import Schema, unusable
from hashclient.system.process import keep_memory_private

#: Seconds for reading the schema, or checking one document; real ones take a second.
LIMIT_S = 30.0
#: The memory limit of the process, in bytes.
MAX_MEMORY_BYTES = 1 << 30
#: The process's limit of processor time, in case nobody is left to end it.
MAX_CPU_S = 120

_LENGTH = struct.Struct(">Q")
_ERRORS: dict[str, type[HashclientError]] = {
    kind.__name__: kind for kind in (ConfigError, VerificationError)
}
_PROGRAM = (
    "import sys; sys.path[:] = sys.argv[1:];"
    " from hashclient.reporting.destinations.cybertipline.sandbox import serve; serve()"
)


class ConfinedSchema:
    """The schema that a service serves; use it as a context manager."""

    #: How long one answer may take, in seconds.
    limit_s = LIMIT_S

    def __init__(self, text: bytes) -> None:
        """Start the process and let it read the schema.

        Raises:
            VerificationError: the schema cannot be used.
        """
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-c", _PROGRAM, *sys.path],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            # A signal from the terminal is for the parent.
            start_new_session=True,
        )
        try:
            self.validate(text)
        except BaseException:
            self._end()
            raise

    def __enter__(self) -> ConfinedSchema:
        """Return itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """End the process."""
        self._end()

    def _end(self) -> None:
        self._process.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                with contextlib.suppress(OSError):
                    stream.close()

    def validate(self, document: bytes) -> None:
        """Check that the service will take `document`.

        Raises:
            ConfigError: the service would refuse the document; the message names the wrong element.
            VerificationError: the schema cannot be used.
        """
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin is not None and stdout is not None
        # The process reads a whole document before it answers, so this write cannot deadlock.
        with contextlib.suppress(BrokenPipeError):
            stdin.write(_LENGTH.pack(len(document)) + document)
            stdin.flush()
        answer = json.loads(b"".join(_until_line(stdout, self.limit_s)))
        if answer is not None:
            raise _ERRORS[answer["error"]](answer["message"], hint=answer["hint"])


def _until_line(stream: IO[bytes], limit_s: float) -> Iterator[bytes]:
    """Yield bytes up to the end of a line.

    Raises:
        VerificationError: reading takes too long, or the process ends.
    """
    ends = time.monotonic() + limit_s
    with selectors.DefaultSelector() as selector:
        selector.register(stream, selectors.EVENT_READ)
        while selector.select(max(0.0, ends - time.monotonic())):
            piece = os.read(stream.fileno(), 1 << 16)
            if not piece:
                raise unusable(
                    "it takes too much memory or time, or breaks the process that reads it"
                )
            yield piece
            if piece.endswith(b"\n"):
                return
    raise unusable("it takes too much time")


def serve() -> None:
    """Run in the process: read the schema, then documents, from stdin; answer each with a line."""
    _bound(resource.RLIMIT_AS, MAX_MEMORY_BYTES)
    _bound(resource.RLIMIT_CPU, MAX_CPU_S)
    keep_memory_private()
    schema: Schema | None = None
    while head := sys.stdin.buffer.read(_LENGTH.size):
        text = sys.stdin.buffer.read(*_LENGTH.unpack(head))
        answer = None
        try:
            if schema is None:
                schema = Schema(text)
            else:
                schema.validate(text)
        except (ConfigError, VerificationError) as error:
            answer = {
                "error": type(error).__name__,
                "message": error.message,
                "hint": error.hint,
            }
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()


def _bound(what: int, most: int) -> None:
    hard = resource.getrlimit(what)[1]
    most = most if hard == resource.RLIM_INFINITY else min(most, hard)
    resource.setrlimit(what, (most, most))
