"""Calls the API of a reporting service like the CyberTipline; `Service` has a method for each call.

This module never repeats a call; the module `filing`, which writes the journal, decides whether to
repeat a call. Answers are limited in length and parsed strictly. Messages never contain text of the
service, except the id of a request, so that the operators of the service can find the request. The
codes and their meanings are from the public description of the API.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import urlencode

import httpx
import msgspec

from hashclient.config.tables import ServiceDestination
from hashclient.core.errors import (
    AuthorisationError,
    ConfigError,
    HashclientError,
    StateError,
    UnreachableError,
    VerificationError,
)
from hashclient.net.client import Transport, access_of, limits_of
from hashclient.net.errors import (
    REFUSING_STATUSES,
    TransientError,
    parse_retry_after,
    status_fault,
)
from hashclient.net.exchange import Download
from hashclient.net.peer import REPORTING_SERVICE
from hashclient.quarantine.evidence import Proven
from hashclient.reporting.destinations.cybertipline.xml import parse_answer

MAX_ANSWER_BYTES = 1 << 20
MAX_SCHEMA_BYTES = 4 << 20

OK = 0
NO_SUCH_REPORT = 5001
NOT_OURS = 5002
ALREADY_RETRACTED = 5101
ALREADY_FINISHED = 5102
#: Codes for an internal problem of the service. After such a code, it is not known whether the
#: service has carried out the call.
SERVER_SIDE = range(1000, 2000)
#: Codes for a refused call, which the service has not carried out.
REFUSED = range(2000, 6000)

#: The exception, the message and the hint for ranges of codes of refused calls that should not be
#: repeated.
_REFUSALS: tuple[tuple[range, type[HashclientError], str, str], ...] = (
    (
        range(2000, 4000),
        AuthorisationError,
        "the service does not let this account report",
        "check basic_file, and ask the service's operators what the account may do",
    ),
    (
        range(4000, 5000),
        ConfigError,
        "the service says that the data are not valid",
        "check incident_type and [report]; the service's operators can say more of the request",
    ),
    (
        range(NO_SUCH_REPORT, NO_SUCH_REPORT + 1),
        StateError,
        "the service knows no such report",
        "unfinished reports vanish there after a day; it is begun again",
    ),
    (
        range(NOT_OURS, NOT_OURS + 1),
        AuthorisationError,
        "the service says that the report is somebody else's",
        "has the account in basic_file changed since the report was begun? use that one to end it",
    ),
    (
        range(ALREADY_RETRACTED, ALREADY_RETRACTED + 1),
        StateError,
        "the service says that the report is retracted",
        "somebody else uses this account; `report submit --again` begins it again",
    ),
    (
        range(ALREADY_FINISHED, ALREADY_FINISHED + 1),
        StateError,
        "the service says that the report is finished",
        "ask the recipient: if all files are there, `report retract`; else `report submit --again`",
    ),
)

_REQUEST_ID = re.compile(r"[A-Za-z0-9._:/=+-]{1,100}", re.ASCII)
_REMOTE_ID = re.compile(r"[A-Za-z0-9._-]{1,100}", re.ASCII)
_MD5 = re.compile(r"[0-9a-f]{32}", re.ASCII)
_CODE = re.compile(r"[0-9]{1,9}", re.ASCII)

_HINT = REPORTING_SERVICE.kept


class Answer(msgspec.Struct, frozen=True):
    """An answer of a service: its code, and the values in it."""

    code: int
    request_id: str | None
    report_id: str | None = None
    file_id: str | None = None
    md5: str | None = None
    files: tuple[str, ...] = ()


class _Answered(Download):
    """An HTTP answer of a service, whose body is read even if the HTTP status is an error."""

    def __init__(self, url: str, max_bytes: int) -> None:
        super().__init__(url, max_bytes, peer=REPORTING_SERVICE)
        self.fault: HashclientError | TransientError | None = None
        self.request_id: str | None = None
        self.retry_after_s: float | None = None

    def begin(self, status: int, headers: httpx.Headers, now: float) -> int:
        given = headers.get("request-id", "")
        self.request_id = given if _REQUEST_ID.fullmatch(given) else None
        if status != 200:
            self.retry_after_s = parse_retry_after(headers.get("retry-after"), now)
            self.fault = status_fault(self.peer, status, self.url, self.retry_after_s)
            if status < 400 or status in REFUSING_STATUSES:
                raise self.fault
        return super().begin(200, headers, now)


class Service:
    """A reporting service; the context manager closes its connections."""

    def __init__(
        self,
        destination: ServiceDestination,
        *,
        on_bytes: Callable[[int], None] = lambda _count: None,
        **clocks: Any,
    ) -> None:
        """Read the credential and certificates; open no connection.

        `on_bytes` is called with the number of bytes of each sent piece of a file. `clocks` are
        passed to `Transport`.

        Raises:
            ConfigError: the settings of the destination cannot be used.
        """
        self._transport = Transport(
            access_of(destination.url, destination, REPORTING_SERVICE),
            limits=limits_of(destination),
            **clocks,
        )
        self._base = destination.url.rstrip("/")
        self._on_bytes = on_bytes
        #: The pause in seconds that the last answer requested, or None.
        self.retry_after_s: float | None = None
        #: The id that the service has given to the last request, or None.
        self.request_id: str | None = None

    def __enter__(self) -> Service:
        """Return this object."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close all connections."""
        self._transport.close()

    def status(self) -> Answer:
        """Check that the service works and accepts the credential.

        Raises:
            HashclientError: the service does not work, or refuses the credential.
        """
        answer = self._call("GET", "status")
        check(answer, "status")
        return answer

    def schema(self) -> bytes:
        """Fetch the XML schema of reports from the service.

        Raises:
            HashclientError: the schema cannot be fetched.
        """
        self.request_id = self.retry_after_s = None
        try:
            return self._transport.get(f"{self._base}/xsd", MAX_SCHEMA_BYTES)
        except HashclientError as error:
            raise self._ours(error) from error

    def open(self, document: bytes) -> Answer:
        """Open a report at the service; `document` is the XML of the report."""
        return self._call("POST", "submit", "text/xml; charset=utf-8", document)

    def upload(self, report_id: str, name: str, evidence: Proven) -> Answer:
        """Upload a file under `name`, which must be a file name without special characters."""
        # The boundary is random, so that no file contains it.
        boundary = secrets.token_hex(24)
        head = (
            f'--{boundary}\r\nContent-Disposition: form-data; name="id"\r\n\r\n{report_id}\r\n'
            f'--{boundary}\r\nContent-Disposition: form-data; name="file"; filename="{name}"\r\n'
            "Content-Type: application/octet-stream\r\n\r\n"
        ).encode("ascii")
        foot = f"\r\n--{boundary}--\r\n".encode("ascii")

        def body() -> Iterator[bytes]:
            yield head
            for chunk in evidence.chunks():
                yield chunk
                self._on_bytes(len(chunk))
            yield foot

        size = len(head) + evidence.size + len(foot)
        return self._call(
            "POST", "upload", f"multipart/form-data; boundary={boundary}", body(), size
        )

    def describe(self, document: bytes) -> Answer:
        """Send the details of an uploaded file; `document` is the XML of the details."""
        return self._call("POST", "fileinfo", "text/xml; charset=utf-8", document)

    def finish(self, report_id: str) -> Answer:
        """Finish a report at the service; a finished report cannot be changed."""
        return self._call("POST", "finish", *_form(report_id))

    def retract(self, report_id: str) -> Answer:
        """Retract a report at the service that is not finished."""
        return self._call("POST", "retract", *_form(report_id))

    def _call(
        self,
        method: str,
        name: str,
        content_type: str | None = None,
        content: bytes | Iterator[bytes] | None = None,
        content_bytes: int | None = None,
    ) -> Answer:
        """Make one call, and return the answer, which may contain a code for an error.

        Raises:
            AuthorisationError: the service refuses the credential, and has not carried out the
                call.
            ConfigError: the address is refused, or the proxy cannot be used; nothing was sent.
            HashclientError: no valid answer was received; it is not known whether the call was
                carried out.
        """
        url = f"{self._base}/{name}"
        answered = _Answered(url, MAX_ANSWER_BYTES)
        if content_bytes is None:
            content_bytes = len(content) if isinstance(content, bytes) else 0
        headers = {} if content_type is None else {"Content-Type": content_type}
        self.request_id = self.retry_after_s = None
        try:
            text = self._transport.exchange(
                method,
                url,
                answered,
                headers=headers,
                content=content,
                content_bytes=content_bytes,
            )
        except StateError:  # an error of a local file, not of the service
            raise
        except HashclientError as error:
            self._note(answered)
            raise self._ours(error) from error
        self._note(answered)
        return self._answer(answered, text, name)

    def _note(self, answered: _Answered) -> None:
        self.request_id = answered.request_id
        self.retry_after_s = answered.retry_after_s

    def _answer(self, answered: _Answered, text: bytes, name: str) -> Answer:
        """Parse an answer; if it contains no code of the service, use its HTTP status."""
        fault = answered.fault
        if isinstance(fault, TransientError):
            fault = fault.error
        try:
            texts = parse_answer(text)
            (said,) = texts["responseCode"]
            if not _CODE.fullmatch(said):
                raise ValueError("not a code")
            code = int(said)
        except (UnreachableError, KeyError, ValueError) as error:
            what = f"the service answers with something that is no answer: /{name}"
            none = UnreachableError(self._named(what), hint=_HINT)
            raise none if fault is None else self._ours(fault) from error
        if fault is not None and code == OK:
            raise self._ours(fault)
        return Answer(
            code,
            answered.request_id,
            _one(texts, "reportId", _REMOTE_ID),
            _one(texts, "fileId", _REMOTE_ID),
            _one(texts, "hash", _MD5),
            tuple(f for f in texts.get("fileId", []) if _REMOTE_ID.fullmatch(f)),
        )

    def _ours(self, error: HashclientError) -> HashclientError:
        """Translate an exception of the transport into an exception with the id of the request.

        A `VerificationError` becomes an `UnreachableError`, because after an invalid answer the
        call may have been carried out.
        """
        if isinstance(error, VerificationError):
            return UnreachableError(self._named(error.message), hint=_HINT)
        return _plain(type(error))(self._named(error.message), hint=error.hint or _HINT)

    def _named(self, message: str) -> str:
        return message if self.request_id is None else f"{message} (request {self.request_id})"


def check(answer: Answer, call: str) -> None:
    """Check that the code of an answer means success.

    Raises:
        HashclientError: the code means an error; the class of the exception depends on the code.
    """
    if answer.code == OK:
        return
    request = "" if answer.request_id is None else f", request {answer.request_id}"
    where = f"/{call}: code {answer.code}{request}"
    if answer.code in SERVER_SIDE:
        raise UnreachableError(f"the service has a problem of its own: {where}", hint=_HINT)
    for codes, kind, message, hint in _REFUSALS:
        if answer.code in codes:
            raise kind(f"{message}: {where}", hint=hint)
    raise UnreachableError(f"the service answers with an unknown code: {where}", hint=_HINT)


def _plain(kind: type[HashclientError]) -> type[HashclientError]:
    """Return the general exception class, for example `ConfigError`, to which `kind` belongs."""
    for plain in (AuthorisationError, UnreachableError, ConfigError):
        if issubclass(kind, plain):
            return plain
    return kind


def _form(report_id: str) -> tuple[str, bytes]:
    return "application/x-www-form-urlencoded", urlencode({"id": report_id}).encode("ascii")


def _one(texts: dict[str, list[str]], name: str, pattern: re.Pattern[str]) -> str | None:
    """Return the first text of the element `name` if it matches `pattern`."""
    text = texts.get(name, [""])[0]
    text = text.lower() if pattern is _MD5 else text
    return text if pattern.fullmatch(text) else None
