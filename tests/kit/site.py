"""A provider behind HTTPS on loopback, and a client that uses only the real command."""

from __future__ import annotations

import contextlib
import io
import threading
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from hashclient.provider.repository import Repository
from hashclient.provider.server import open_server
from tests.kit.run import Run, call, run


class Site:
    """A provider that is served on loopback, and a client's state directory.

    `requests`: the lines that the server logs.
    """

    def __init__(self, directory: Path) -> None:
        """Make the provider without lists, and serve it until the end of the context."""
        self.directory = directory
        self.state = directory / "state"
        self.requests: list[str] = []
        self.repository = Repository(directory / "repo", clock=lambda: datetime.now(UTC))
        self.repository.create()
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> Site:
        """Start the server."""
        opened = open_server(
            self.repository,
            "127.0.0.1:0",
            clock=lambda: datetime.now(UTC),
            log=self.requests.append,
        )
        self.server, self.endpoint = self._stack.enter_context(opened)
        thread = threading.Thread(target=self.server.serve_forever, args=(0.02,))
        thread.start()
        self._stack.callback(thread.join)
        self._stack.callback(self.server.shutdown)
        return self

    def __exit__(self, *_: object) -> None:
        """Stop the server."""
        self._stack.close()

    @property
    def token(self) -> str:
        """The credential that the server requires."""
        return self.endpoint.token_file.read_text().strip()

    def publish(self, content: bytes, list_name: str = "baseline") -> None:
        """Publish entries."""
        self.repository.publish(list_name, [(f"{list_name}.csv", io.BytesIO(content))])

    def run(self, *args: object, state: Path | None = None, **kwargs: Any) -> Run:
        """Run the real command on the client's state directory."""
        return run("--state-dir", state or self.state, *args, **kwargs)

    def call(self, *args: object, state: Path | None = None) -> Run:
        """Run a command in this process on the client's state directory."""
        return call("--state-dir", state or self.state, *args)

    def init_arguments(self, *more: str | Path, token_file: Path | None = None) -> list[str | Path]:
        """Return the arguments of `init` for this provider."""
        return [
            *("init", self.endpoint.url),
            *("--root", self.repository.root_file),
            *("--ca", self.endpoint.ca),
            *("--token-file", token_file or self.endpoint.token_file),
            *more,
        ]
