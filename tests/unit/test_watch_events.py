"""Events of buckets in all their forms; any other message stays in the queue."""

from __future__ import annotations

import json
import os
from typing import Any
from unittest import mock

import pytest

from hashclient.core.errors import UnreachableError, UsageError
from hashclient.watch.events import Event, Lines, Queue, _event_of


def record(key: str, name: str = "ObjectCreated:Put", **more: str) -> dict[str, Any]:
    return {"eventName": name, "s3": {"bucket": {"name": "uploads"}, "object": {"key": key} | more}}


def eventbridge(key: str, kind: str = "Object Created", **more: str) -> dict[str, Any]:
    detail = {"bucket": {"name": "uploads"}, "object": {"key": key} | more}
    return {"source": "aws.s3", "detail-type": kind, "detail": detail}


def taken(body: object) -> Event:
    text = body if isinstance(body, str) else json.dumps(body)
    attributes = {"ApproximateReceiveCount": "3"}
    return _event_of({"Body": text, "ReceiptHandle": "mark", "Attributes": attributes})


@pytest.mark.parametrize(
    ("body", "uris"),
    [
        ({"Records": [record("a"), record("b")]}, ["s3://uploads/a", "s3://uploads/b"]),
        ({"Records": [record("a+b%2Bc%C3%A9")]}, ["s3://uploads/a b+cé"]),
        ({"Records": [record("a", versionId="v1")]}, ["s3://uploads/a?versionId=v1"]),
        ({"Records": [record("a", versionId="")]}, ["s3://uploads/a"]),
        (
            {"Records": [record("a", "s3:ObjectCreated:CompleteMultipartUpload")]},
            ["s3://uploads/a"],
        ),
        ({"Records": [record("a", "ObjectRemoved:Delete")]}, []),
        ({"Event": "s3:TestEvent", "Bucket": "uploads"}, []),
        (eventbridge("a+b%20"), ["s3://uploads/a+b%2520"]),
        (eventbridge("a", **{"version-id": "v1"}), ["s3://uploads/a?versionId=v1"]),
        (eventbridge("a", "Object Deleted"), []),
    ],
)
def test_a_notification_names_its_objects(body: dict[str, Any], uris: list[str]) -> None:
    # The form in which SNS wraps an event.
    wrapped = {"Type": "Notification", "Message": json.dumps(body)}
    for event in (taken(body), taken(wrapped)):
        assert [uri.text for uri in event.objects] == uris
        assert (event.mark, event.times, event.is_read) == ("mark", 3, True)


@pytest.mark.parametrize(
    "body",
    [
        "no json",
        "[" * 100_000,
        '{"Type": "Notification", "Message": "' + "[" * 100_000 + '"}',
        "[]",
        "7",
        {},
        {"Records": 1},
        {"Records": [{}]},
        {"Records": [record("")]},
        {"Records": [record("a") | {"s3": {"object": {"key": "a"}}}]},
        {"Records": [{"eventName": 1}]},
        {"Type": "Notification", "Message": "no json"},
        {"Type": "Notification"},
        {"source": "aws.s3", "detail-type": "Object Created", "detail": {}},
    ],
    ids=lambda body: json.dumps(body)[:60],
)
def test_what_is_no_notification_is_not_taken_for_one_about_nothing(body: object) -> None:
    event = taken(body)
    assert not event.is_read and event.objects == () and event.mark == "mark"


def answer(kind: str | None = "application/x-amz-json-1.0", **parts: object) -> dict[str, object]:
    headers = {} if kind is None else {"content-type": kind}
    return {"ResponseMetadata": {"HTTPHeaders": headers}, **parts}


@pytest.mark.parametrize(
    "got",
    [
        *(answer(Messages=messages) for messages in ("text", [None], [{"Body": "{}"}], 7)),
        # botocore finds no messages in the HTML page of a proxy.
        *(answer(kind) for kind in (None, "", "text/html", "text/plain; charset=utf-8")),
        {},
    ],
)
def test_an_answer_that_is_not_of_sqs_is_a_failure_of_the_queue(got: object) -> None:
    pytest.importorskip("botocore")
    client = mock.Mock(**{"get_queue_url.return_value": {"QueueUrl": "x"}})
    client.get_queue_attributes.return_value = answer()
    with mock.patch("botocore.session.Session.create_client", return_value=client):
        queue = Queue("sqs://uploads")
        for kind in ("application/x-amz-json-1.0", "text/xml", "application/xml"):
            client.receive_message.return_value = answer(kind)
            assert queue.take(0) == []
        client.receive_message.return_value = got
        with pytest.raises(UnreachableError, match="the answer is not that of SQS"):
            queue.take(0)
        client.get_queue_url.return_value = {}
        with pytest.raises(UnreachableError, match="the answer is not that of SQS"):
            Queue("sqs://uploads")


def test_lines_that_cannot_be_read_are_an_error() -> None:
    fd = os.open(os.devnull, os.O_WRONLY)  # so is stdin if it was closed
    try:
        with pytest.raises(UsageError, match="events cannot be read: bad file descriptor"):
            Lines(fd).take(60.0)
    finally:
        os.close(fd)


def test_lines_are_taken_as_they_come_and_the_last_needs_no_end() -> None:
    reading, writing = os.pipe()
    try:
        lines = Lines(reading)
        assert lines.take(0.0) == ()
        os.write(writing, b"s3://uploads/a\n\nno uri\ns3://uploads/a\r\ns3://upl")
        first, *wrong = lines.take(60.0) or ()
        assert [uri.text for uri in first.objects] == ["s3://uploads/a"]
        assert [one.is_read for one in wrong] == [False, False]
        os.write(writing, b"oads/b")
        assert lines.take(60.0) == []
        os.close(writing)
        (last,) = lines.take(60.0) or ()
        assert [uri.text for uri in last.objects] == ["s3://uploads/b"]
        assert lines.take(60.0) is None
    finally:
        os.close(reading)
