"""Events that name new objects in buckets, from a queue or from another program's output.

When the objects of an event are checked, `done` removes the event from its source. The queue sends
an event again that was not removed. If the queue has a redrive policy, it moves an event that was
sent too often to its dead-letter queue.
"""

from __future__ import annotations

import contextlib
import os
import re
import select
from collections.abc import Iterator, Sequence
from typing import Any, Protocol
from urllib.parse import unquote_to_bytes

import msgspec

from hashclient.core.errors import ConfigError, UnreachableError, UsageError
from hashclient.core.objecturi import ObjectUri, parse_uri
from hashclient.system.text import printable

#: How long one call of `take` waits for events, in seconds; a signal is handled only after the
#: call.
WAIT_S = 2
#: The most messages that one request to SQS may return or delete.
_MOST = 10
#: Matches the content types of SQS answers: JSON, or XML in the older protocol.
_OF_SQS = re.compile(r"json|\bxml")
#: The errors that can occur while a message is parsed, if the message is no notification or its
#: JSON is nested too deeply.
_NO_EVENT = (KeyError, TypeError, AttributeError, ValueError, UsageError, RecursionError)
_NO_QUEUE = "not the address of a queue: {}"


class Event(msgspec.Struct, frozen=True):
    """An event: the new objects, and `mark`, which identifies the event at its source.

    `times`: how often the source has sent this event so far. `is_read` is False if the event has an
    unknown form.
    """

    objects: tuple[ObjectUri, ...]
    mark: str = ""
    times: int = 1
    is_read: bool = True


class Events(Protocol):
    """A source of events."""

    #: Whether the source moves events that fail repeatedly to a dead-letter queue.
    has_dead_letters: bool

    def take(self, wait_s: float) -> Sequence[Event] | None:
        """Return the next events.

        Return an empty sequence after `wait_s` seconds, and None if the source has ended.
        """

    def done(self, events: Sequence[Event]) -> None:
        """Remove `events` from the source, because they were checked."""


class Lines:
    """Reads events from the output of another program; each line is the URI of an object.

    Each line is returned once.
    """

    has_dead_letters = False

    def __init__(self, fd: int) -> None:
        """Read lines from the descriptor `fd`, which the caller closes."""
        self._fd = fd
        self._rest: bytes | None = b""

    def take(self, wait_s: float) -> Sequence[Event] | None:
        """Return the objects of the lines that have arrived; see `Events.take`.

        Raises:
            UsageError: the descriptor cannot be read.
        """
        if self._rest is None:
            return None
        waiting = select.poll()
        waiting.register(self._fd, select.POLLIN)
        if not waiting.poll(1000 * wait_s):
            return ()
        try:
            chunk = os.read(self._fd, 1 << 16)
        except OSError as error:
            why = (error.strerror or "").lower()
            raise UsageError(f"events cannot be read: {why}", hint="give one URI a line") from error
        *lines, rest = (self._rest + chunk).split(b"\n")
        self._rest = rest if chunk else None
        if not chunk:
            lines.append(rest)
        return [_event_of_line(os.fsdecode(line)) for line in lines if line.strip()]

    def done(self, events: Sequence[Event]) -> None:
        """Do nothing, because each line is read only once."""


class Queue:
    """A queue of Amazon SQS that receives the events of buckets."""

    def __init__(self, address: str) -> None:
        """Find the queue: `sqs://NAME`, or `sqs://ACCOUNT/NAME` for a queue of another account.

        Raises:
            UsageError: the address of the queue has another form, or botocore is not installed.
            ConfigError: no credentials are found, or no queue named NAME is visible with the
                credentials.
            UnreachableError: SQS cannot be reached.
        """
        account, _, name = address.removeprefix("sqs://").rpartition("/")
        if not address.startswith("sqs://") or not name:
            raise UsageError(_NO_QUEUE.format(printable(address)), hint="sqs://NAME")
        self.address = address
        try:
            import botocore.session
        except ImportError as error:
            from hashclient.objects.failures import missing_extra

            raise missing_extra(error) from error
        owner = {"QueueOwnerAWSAccountId": account} if account else {}
        with self._errors():
            self._sqs: Any = botocore.session.get_session().create_client("sqs")
            self._url = self._sqs.get_queue_url(QueueName=name, **owner)["QueueUrl"]
            got = self._call("get_queue_attributes", AttributeNames=["RedrivePolicy"])
        self.has_dead_letters = "RedrivePolicy" in got.get("Attributes", {})

    def take(self, wait_s: float) -> Sequence[Event]:
        """Return the next events; see `Events.take`.

        Raises:
            ConfigError: the credentials are refused, or the queue does not exist any more.
            UnreachableError: SQS cannot be reached.
        """
        with self._errors():
            got = self._call(
                "receive_message",
                MaxNumberOfMessages=_MOST,
                WaitTimeSeconds=int(wait_s),
                AttributeNames=["ApproximateReceiveCount"],
            )
            return [_event_of(message) for message in got.get("Messages", ())]

    def done(self, events: Sequence[Event]) -> None:
        """Delete the messages of events; SQS sends messages again that cannot be deleted.

        Raises:
            ConfigError, UnreachableError: the errors of `take`.
        """
        for first in range(0, len(events), _MOST):
            some = events[first : first + _MOST]
            entries = [{"Id": str(n), "ReceiptHandle": one.mark} for n, one in enumerate(some)]
            with self._errors():
                self._call("delete_message_batch", Entries=entries)

    def _call(self, operation: str, **arguments: Any) -> Any:
        got = getattr(self._sqs, operation)(QueueUrl=self._url, **arguments)
        # The content type is checked because botocore takes an empty answer, or the HTML page of a
        # proxy, for an answer without messages.
        if not _OF_SQS.search(got["ResponseMetadata"]["HTTPHeaders"]["content-type"]):
            raise LookupError
        return got

    @contextlib.contextmanager
    def _errors(self) -> Iterator[None]:
        """Translate errors of botocore, whose texts may contain secrets."""
        from botocore.exceptions import BotoCoreError, ClientError, HTTPClientError
        from botocore.parsers import ResponseParserError

        try:
            yield
        except ClientError as error:
            code = printable(str(error.response.get("Error", {}).get("Code", "")))
            raise ConfigError(
                f"{printable(self.address)}: the queue refuses: {code}",
                hint="look at its name, its region (AWS_REGION) and the rights of the credentials",
            ) from None
        except HTTPClientError:
            raise UnreachableError(f"{printable(self.address)}: SQS cannot be reached") from None
        except (ResponseParserError, LookupError, TypeError, AttributeError, RecursionError):
            raise UnreachableError(
                f"{printable(self.address)}: the answer is not that of SQS",
                hint="look at the endpoint (AWS_ENDPOINT_URL), and at proxies",
            ) from None
        except (BotoCoreError, OSError, ValueError) as error:
            raise ConfigError(
                f"{printable(self.address)}: {type(error).__name__}",
                hint="credentials and region are found as by AWS's own tools",
            ) from None


def _event_of_line(line: str) -> Event:
    """Return the event of a line; a URI has no control character, such as that of a CRLF."""
    if re.search(r"[\x00-\x1f\x7f]", line):
        return Event((), is_read=False)
    try:
        return Event((parse_uri(line),))
    except UsageError:
        return Event((), is_read=False)


def _event_of(message: Any) -> Event:
    times = int(message.get("Attributes", {}).get("ApproximateReceiveCount", 1))
    try:
        objects = tuple(_objects_in(msgspec.json.decode(message["Body"])))
    except _NO_EVENT:
        return Event((), message["ReceiptHandle"], times, is_read=False)
    return Event(objects, message["ReceiptHandle"], times)


def _objects_in(body: Any) -> Iterator[ObjectUri]:
    """Yield the new objects in a notification of S3, SNS or EventBridge.

    Amazon documents the forms of notifications as "Event message structure" (keys are escaped as in
    the query of a URL) and "EventBridge event message structure" (keys are not escaped).

    Raises:
        KeyError, TypeError, AttributeError, ValueError, UsageError: the body is not a notification
            of S3, SNS or EventBridge.
    """
    if body.get("Type") == "Notification":
        yield from _objects_in(msgspec.json.decode(body["Message"]))
    elif body.get("source") == "aws.s3":
        if body["detail-type"] == "Object Created":
            one = body["detail"]["object"]
            yield _named(body["detail"]["bucket"]["name"], one["key"], one.get("version-id"))
    elif body.get("Event") != "s3:TestEvent":
        for record in body["Records"]:
            if "ObjectCreated" in record["eventName"]:
                one = record["s3"]["object"]
                key = os.fsdecode(unquote_to_bytes(one["key"].replace("+", " ")))
                yield _named(record["s3"]["bucket"]["name"], key, one.get("versionId"))


def _named(bucket: str, key: str, version: str | None) -> ObjectUri:
    if not bucket or not key:
        raise ValueError(key)
    return parse_uri(ObjectUri("s3", bucket, key, version or None).text)
