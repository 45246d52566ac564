"""clamd's protocol as values: every form of a command, with the bytes in pieces of any size."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hashclient.daemon.protocol import (
    MAX_COMMAND_BYTES,
    Broken,
    Chunk,
    Command,
    Parser,
    Request,
    Whole,
    encoded,
    no_verdict,
    signature,
)

FORMS = [(b"z", b"\0"), (b"n", b"\n"), (b"", b"\n")]
each_form = pytest.mark.parametrize(("prefix", "end"), FORMS, ids=["z", "n", "bare"])


TOO_LONG = Broken("INSTREAM size limit exceeded.")
#: In expected events: the end of a stream.
END = "end"


def instream(*chunks: bytes, prefix: bytes = b"z", end: bytes = b"\0") -> bytes:
    parts = [len(chunk).to_bytes(4, "big") + chunk for chunk in chunks]
    return prefix + b"INSTREAM" + end + b"".join(parts) + bytes(4)


def plain(events: Iterable[object]) -> Iterator[object]:
    """Yield events in one form, however the bytes were divided; leave out empty chunks."""
    for event in events:
        if isinstance(event, Whole):
            yield (Command.INSTREAM, b"", event.delimiter)
            yield bytes(event.data)
            yield END
        elif isinstance(event, Request):
            yield (event.command, event.argument, event.delimiter)
        elif isinstance(event, Chunk):
            yield bytes(event.data) or END
        else:
            yield event


def parse(*pieces: bytes, parser: Parser | None = None) -> list[object]:
    parser = parser or Parser()
    events: list[object] = []
    for piece in pieces:
        events += plain(parser.feed(memoryview(piece)))
    result: list[object] = []
    for event in events:
        if isinstance(event, bytes) and result and isinstance(result[-1], bytes):
            result[-1] += event
        else:
            result.append(event)
    return result


@each_form
@pytest.mark.parametrize("command", list(Command))
def test_every_command_has_every_form(command: Command, prefix: bytes, end: bytes) -> None:
    byte = b"x" if command is Command.FILDES else b""  # the descriptor is sent with the byte `x`
    assert parse(prefix + command.value + end + byte) == [(command, b"", end)]


@each_form
def test_a_path_may_have_spaces(prefix: bytes, end: bytes) -> None:
    assert parse(prefix + b"SCAN /a b/ c " + end) == [(Command.SCAN, b"/a b/ c ", end)]


@each_form
@pytest.mark.parametrize("end_of_name", [b"\r", b"\n", b"\r\n"])
def test_a_path_may_end_as_lines_do(prefix: bytes, end: bytes, end_of_name: bytes) -> None:
    """Without its last character, the path would name another file, which may be clean."""
    path = b"/a/b" + end_of_name.removesuffix(end)
    assert parse(prefix + b"SCAN " + path + end) == [(Command.SCAN, path, end)]


def test_an_unknown_command_is_a_request_too() -> None:
    assert parse(b"zscan /a\0") == [(None, b"/a", b"\0")]
    assert parse(b"zSCANALL\0") == [(None, b"", b"\0")]


def test_an_old_command_may_end_as_windows_lines_do() -> None:
    assert parse(b"PING\r\n") == [(Command.PING, b"", b"\n")]


def test_a_command_that_ends_with_a_null_byte_has_no_other_end() -> None:
    assert parse(b"zPING\r\0") == [(None, b"", b"\0")]
    assert parse(b"nPING\r\n") == [(Command.PING, b"", b"\n")]


def test_an_empty_line_is_no_command() -> None:
    assert parse(b"\n\n", b"nPING\n") == [(Command.PING, b"", b"\n")]


def test_an_old_command_without_an_end_is_held_until_somebody_says_so() -> None:
    parser = Parser()
    assert parse(b"PI", b"NG", parser=parser) == []
    assert parser.holds_bare
    assert parser.bare() == [Request(Command.PING, b"", b"\n")]
    assert parser.is_between


def test_a_new_command_without_an_end_is_not_complete() -> None:
    parser = Parser()
    assert parse(b"zPING", parser=parser) == []
    assert not parser.holds_bare


@pytest.mark.parametrize("length", [1, 2, 3, 4, 5, 6, 7, 8, 255, 256, 70_000])
def test_a_stream_of_one_chunk_that_is_there_is_one_event(length: int) -> None:
    for chunk in (b"a" * length, bytes(length)):
        (event,) = Parser().feed(memoryview(instream(chunk)))
        assert isinstance(event, Whole)
        assert (bytes(event.data), event.delimiter) == (chunk, b"\0")


@given(
    st.sampled_from([b"", b"zPING\0", b"zPI", b"zINSTREAM\0", b"nFILDES\n", instream(b"a")]),
    st.one_of(
        st.binary(max_size=40),
        st.builds(
            lambda chunks, cut, more: instream(*chunks)[: -cut or None] + more,
            st.lists(st.binary(max_size=4), max_size=2),
            st.integers(0, 5),
            st.sampled_from([b"", b"z", instream(b"b")]),
        ),
    ),
)
def test_a_stream_alone_is_what_would_be_the_only_event(before: bytes, data: bytes) -> None:
    parser, other = Parser(3), Parser(3)
    for each in (parser, other):
        each.feed(memoryview(before))
    alone = parser.alone(memoryview(data))
    events = other.feed(memoryview(data))
    # A NUL or a newline between two commands causes no event.
    first = next(iter(events), None)
    is_alone = isinstance(first, Whole) and data == instream(
        bytes(first.data), prefix=data[:1], end=first.delimiter
    )
    assert (alone is not None) == is_alone
    if alone is not None:
        assert list(plain([alone])) == list(plain(events))
        assert parser.is_between


@pytest.mark.parametrize("prefix", [b"z", b"n"])
def test_streams_follow_each_other(prefix: bytes) -> None:
    end = b"\0" if prefix == b"z" else b"\n"
    data = instream(b"a", b"bc", prefix=prefix, end=end)
    assert parse(data * 2) == [(Command.INSTREAM, b"", end), b"abc", END] * 2


def test_a_stream_may_be_empty() -> None:
    assert parse(instream()) == [(Command.INSTREAM, b"", b"\0"), END]


def test_a_command_inside_a_stream_is_data() -> None:
    inner = instream(b"x")
    assert parse(instream(inner)) == [(Command.INSTREAM, b"", b"\0"), inner, END]


PIECES = st.lists(
    st.one_of(
        st.sampled_from([b"zPING\0", b"nVERSION\n", b"PING\n", b"zIDSESSION\0", b"nEND\n"]),
        st.builds(lambda chunks: instream(*chunks), st.lists(st.binary(min_size=1, max_size=40))),
        st.builds(
            lambda chunks: instream(*chunks, prefix=b"n", end=b"\n"),
            st.lists(st.binary(min_size=1, max_size=9)),
        ),
        st.builds(lambda byte: b"zFILDES\0" + byte, st.binary(min_size=1, max_size=1)),
    ),
    max_size=6,
)


@given(PIECES, st.lists(st.integers(min_value=0, max_value=200), max_size=8))
def test_it_makes_no_difference_where_the_bytes_are_cut(
    parts: list[bytes], cuts: list[int]
) -> None:
    data = b"".join(parts)
    places = sorted({0, len(data), *(cut for cut in cuts if cut <= len(data))})
    pieces = [data[a:b] for a, b in itertools.pairwise(places)]
    whole = parse(data)
    assert parse(*pieces) == whole
    assert parse(*(data[n : n + 1] for n in range(len(data)))) == whole


@given(st.binary(max_size=300))
def test_any_bytes_end_in_events_or_as_broken(data: bytes) -> None:
    events = Parser(1000).feed(memoryview(data))
    assert not any(isinstance(event, Broken) for event in events[:-1])
    assert sum(len(bytes(e.data)) for e in events if isinstance(e, Chunk)) <= len(data)


@pytest.mark.parametrize("first", [b"z", b"n", b"S"])
def test_a_command_has_a_greatest_length(first: bytes) -> None:
    assert MAX_COMMAND_BYTES == 4_128
    parser = Parser()
    for _ in range(MAX_COMMAND_BYTES - 1):
        assert parser.feed(memoryview(first)) == []
    assert parser.feed(memoryview(first)) == [Broken("COMMAND TOO LONG.")]


def test_a_stream_has_a_greatest_length_however_it_is_cut() -> None:
    for chunks in ([b"x" * 11], [b"x" * 5, b"x" * 6]):
        *_, last = Parser(10).feed(memoryview(instream(*chunks)))
        assert last == TOO_LONG
    assert parse(instream(b"x" * 10), parser=Parser(10))
    # The limit applies to each stream by itself: two streams together may exceed the limit.
    assert parse(instream(b"x" * 6) + instream(b"x" * 6), parser=Parser(10))


def test_a_length_that_no_stream_may_have_is_refused_before_its_bytes_come() -> None:
    *_, last = Parser(1 << 31).feed(memoryview(b"zINSTREAM\0\xff\xff\xff\xff"))
    assert last == TOO_LONG


def test_a_descriptor_is_announced_and_then_comes() -> None:
    parser = Parser()
    assert parse(b"zFILDES\0", parser=parser) == []
    assert parser.wants_descriptor
    assert parse(b"x", parser=parser) == [(Command.FILDES, b"", b"\0")]
    assert parser.is_between


def test_names_have_nothing_in_them_that_ends_a_name() -> None:
    assert signature("base", "a:b c/d") == "Hashclient.base.a_b_c_d"
    assert no_verdict("Unread") == "Heuristics.Limits.Exceeded.Hashclient.Unread"


@given(st.binary(max_size=300), st.integers(min_value=1, max_value=5))
def test_so_many_events_at_a_time_are_the_same_events(data: bytes, most: int) -> None:
    data = data + b"\0zPING\0" + instream(b"a", b"b") + data
    whole, parts = Parser(100), Parser(100)
    expected = list(plain(whole.feed(memoryview(data))))
    found: list[object] = []
    used = 0
    while used < len(data):
        events = parts.feed(memoryview(data)[used:], most)
        assert len(events) <= most
        found += plain(events)
        used += parts.used
    assert found == expected


@pytest.mark.parametrize("data", [b"VERSION\0PING\n", b"PING\nVERSION\0"])
def test_an_old_command_ends_at_the_first_end_wherever_it_is_cut(data: bytes) -> None:
    whole = parse(data)
    assert len(whole) == 2
    assert parse(*(data[n : n + 1] for n in range(len(data)))) == whole


def test_any_name_can_be_in_an_answer() -> None:
    assert encoded("/a\udcff: OK") == b"/a\xff: OK"
    assert encoded("/a\ud800: OK") == b"/a\\ud800: OK"
