"""Shared by commands on many items: going on after a failure, results, and tables."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from hashclient.cli.app import App
from hashclient.cli.output import json_text
from hashclient.errors import AuditError, ConfigError, ExitCode, HashclientError, LockedError
from hashclient.system.secrets import without_secret_keys
from hashclient.system.text import path_fields, printable

if TYPE_CHECKING:
    from hashclient.quarantine.vault import Restored

#: Errors that stop a command, since they would come with every other item, too.
_FATAL = (AuditError, ConfigError, LockedError)


class Results:
    """Prints the results of items, as lines or as one document; keeps the worst exit code."""

    def __init__(self, app: App, output_format: str, ids: Sequence[str] = ()) -> None:
        """`output_format` is `text` or `json`; `ids` are the requested items."""
        self._app = app
        self._is_json = output_format == "json"
        self._is_single = len(ids) == 1
        self._documents: list[dict[str, Any]] = []
        self.code = ExitCode.OK

    @contextlib.contextmanager
    def item(self, item_id: str) -> Iterator[None]:
        """Process one item in the block; report a failure, and go on if there are other items.

        Raises:
            HashclientError: there are no other items, or they would fail in the same way.
        """
        try:
            yield
        except _FATAL:
            raise
        except HashclientError as error:
            if self._is_single:
                raise
            self._app.warn(f"{printable(item_id)}: {error.message}", error.hint)
            self.count(error.exit_code)
            shown = {"id": item_id, "detail": error.message}
            hidden = {key: without_secret_keys(text) for key, text in shown.items()}
            self._documents.append({**hidden, "done": False})

    def put(
        self,
        item_id: str,
        detail: str,
        *,
        done: bool | None,
        path: str | None = None,
        attention: bool = False,
        **more: Any,
    ) -> None:
        """Print the result of one item; `attention` makes the command end as incomplete."""
        if attention:
            self.count(ExitCode.INCOMPLETE)
        where = {} if path is None else path_fields(path)
        document = {"id": item_id, **where, "done": done, "detail": detail, "attention": attention}
        shown = [item_id, *([] if path is None else [printable(path)]), detail]
        self.put_document("  ".join(shown), document | more)

    def put_document(self, line: str, document: dict[str, Any]) -> None:
        """Print one item: `line` for people, `document` for programs."""
        self._documents.append(document)
        if not self._is_json:
            self._app.out(line)

    def count(self, code: ExitCode) -> None:
        """End the command with `code`, unless its code is already worse."""
        self.code = max(code, self.code)

    def end(self, nothing: str) -> ExitCode:
        """Write the document, or the message `nothing` if there is no item. Return the code."""
        if self._is_json:
            self._app.out(json_text({"items": self._documents}))
        elif not self._documents:
            self._app.say(nothing)
        return self.code


def put_restored(
    results: Results, restored: Iterable[tuple[str, Restored | HashclientError]]
) -> None:
    """Print the result of each restoration."""
    for match_id, one in restored:
        with results.item(match_id):
            if isinstance(one, HashclientError):
                raise one
            without = ", ".join(one.missing)
            detail = f"restored without {without}" if without else "restored"
            results.put(match_id, detail, path=one.path, done=True, attention=bool(without))
