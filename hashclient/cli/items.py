"""What commands on many items share: going on after a failure, and telling all in one form."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Sequence
from typing import Any

from hashclient.cli.app import App
from hashclient.errors import AuditError, ConfigError, ExitCode, HashclientError, LockedError
from hashclient.system.text import path_fields, printable

#: What stops a command, since it would happen with every other item, too.
_FATAL = (AuditError, ConfigError, LockedError)


class Results:
    """Tells what became of items, as lines or as one document, and keeps the worst exit code."""

    def __init__(self, app: App, output_format: str, ids: Sequence[str] = ()) -> None:
        """`output_format` is `text` or `json`; `ids` are the items that are asked for."""
        self._app = app
        self._is_json = output_format == "json"
        self._is_single = len(ids) == 1
        self._documents: list[dict[str, Any]] = []
        self.code = ExitCode.OK

    @contextlib.contextmanager
    def item(self, item_id: str) -> Iterator[None]:
        """Deal with one item; if that fails, say so, and go on if there are others.

        Raises:
            HashclientError: there are no others, or it would be the same with them.
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
            self._documents.append({"id": item_id, "done": False, "detail": error.message})

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
        """Tell what became of one item; `attention` makes the command end as incomplete."""
        if attention:
            self.count(ExitCode.INCOMPLETE)
        where = {} if path is None else path_fields(path)
        document = {"id": item_id, **where, "done": done, "detail": detail, "attention": attention}
        shown = [item_id, *([] if path is None else [printable(path)]), detail]
        self.put_document("  ".join(shown), document | more)

    def put_document(self, line: str, document: dict[str, Any]) -> None:
        """Tell about one item: `line` to people, `document` to programs."""
        self._documents.append(document)
        if not self._is_json:
            self._app.out(line)

    def count(self, code: ExitCode) -> None:
        """Let the command end with `code`, unless it ends with something worse."""
        self.code = max(code, self.code)

    def end(self, nothing: str) -> ExitCode:
        """Write the document; say `nothing` where there was nothing to tell. Return the code."""
        if self._is_json:
            self._app.out(json.dumps({"items": self._documents}))
        elif not self._documents:
            self._app.say(nothing)
        return self.code
