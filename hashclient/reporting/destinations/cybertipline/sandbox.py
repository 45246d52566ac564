"""Validates documents against the schema of a service in a child process with limits.

The schema of a service is not trusted. A small schema can keep a validator busy for years or use
all memory, for example by a regular expression that backtracks. Because of the limits of time and
memory, a hostile schema only lets one attempt to send one report fail. The child process reads the
schema and then documents, and answers each with a line that contains the fault or null. If the
child process dies or takes too long, the schema is not usable.
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

#: Seconds for reading the schema or validating one document, which usually takes a second.
LIMIT_S = 30.0
#: The memory limit of the child process, in bytes.
MAX_MEMORY_BYTES = 1 << 30
#: The limit of processor time of the child process in seconds, in case its parent cannot end it.
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
    """The schema of a service in a child process; the context manager ends the process."""

    #: The time limit for one answer of the child process, in seconds.
    limit_s = LIMIT_S

    def __init__(self, text: bytes) -> None:
        """Start the child process and let it read the schema.

        Raises:
            VerificationError: the schema cannot be used.
        """
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-c", _PROGRAM, *sys.path],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            # The child process must not get signals of the terminal, for example from Ctrl-C.
            start_new_session=True,
        )
        try:
            self.validate(text)
        except BaseException:
            self._end()
            raise

    def __enter__(self) -> ConfinedSchema:
        """Return this object."""
        return self

    def __exit__(self, *_: object) -> None:
        """End the child process."""
        self._end()

    def _end(self) -> None:
        self._process.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                with contextlib.suppress(OSError):
                    stream.close()

    def validate(self, document: bytes) -> None:
        """Check that `document` is valid against the schema of the service.

        Raises:
            ConfigError: the document is not valid; the message names the wrong element.
            VerificationError: the schema cannot be used.
        """
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin is not None and stdout is not None
        # The child process reads a whole document before it answers, so this write cannot deadlock.
        with contextlib.suppress(BrokenPipeError):
            stdin.write(_LENGTH.pack(len(document)) + document)
            stdin.flush()
        answer = json.loads(b"".join(_until_line(stdout, self.limit_s)))
        if answer is not None:
            raise _ERRORS[answer["error"]](answer["message"], hint=answer["hint"])


def _until_line(stream: IO[bytes], limit_s: float) -> Iterator[bytes]:
    """Yield bytes up to the end of a line.

    Raises:
        VerificationError: reading takes too long, or the child process ends.
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
    """Run in the child process: read a schema and documents from stdin; answer each with a line."""
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
