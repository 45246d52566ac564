"""A form that a browser has sent (`multipart/form-data`): each part of the form is a member.

The header of the HTTP request is not needed, because the first line of the body is the boundary; a
proxy, for example, may pass on the body without the header. Some servers decode a part that has a
`Content-Transfer-Encoding`, or split a part that is a multipart, and some servers do not. Such a
part is listed in both readings. Some programs take a form for a mail, so files that are encoded in
a text are listed as well; a form with further fields of a mail is also opened as a mail.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import partial
from itertools import chain

from hashclient.containers.interface import HEAD_BYTES, Data, Member, Stream, Unlisted, Why
from hashclient.containers.mail import files_as_members, read_again
from hashclient.containers.mailreadings import Kept, Stored, first_way, other_ways
from hashclient.containers.mimebinary import FileFinder
from hashclient.containers.mimelines import Boundaries, Lines

#: The most levels of nested multiparts.
MAX_DEPTH = 8


class Form:
    """The expander of request bodies that contain a form."""

    name = "form"
    seeks = False

    def members(self, data: Data | Stream) -> Iterator[list[Member] | Unlisted]:
        """Yield the parts one by one; the caller reads each part before it takes the next part."""
        lines = Lines(data)
        boundary = lines.peek(HEAD_BYTES).partition(b"\n")[0].rstrip()[2:]
        yield from _parts(lines, (boundary,), 1)


def _parts(
    lines: Lines, boundaries: Iterable[bytes], depth: int
) -> Iterator[list[Member] | Unlisted]:
    stack = [Boundaries(boundaries)]
    number = 0
    for _ in lines.body(stack):
        pass
    while lines.hit is not None:
        finder = FileFinder()
        if lines.hit.is_last:
            for _ in finder.watch(lines.body(stack)):
                pass
            yield from files_as_members(finder.files)
            continue
        fields = lines.header(stack).fields()
        number += 1
        name, kept = fields.name or b"part-%d" % number, Kept()
        once = finder.watch(kept.watch(lines.body(stack, guesses=False)))
        yield [Member(name, None, is_exact=False, chunks=partial(iter, once))]
        for _ in once:  # read the bytes of the part that the caller has not read
            pass
        yield from files_as_members(finder.files)
        if lines.is_doubtful or not fields.has_end or fields.rest or fields.is_disputed:
            yield Unlisted(
                name, Why.DAMAGED, "form: servers differ about where a part begins or ends"
            )
        ways = [
            way
            for encoding in fields.ways
            if encoding
            for way in (first_way(encoding), *other_ways(encoding))
        ]
        if lines.may_end_with_return:
            ways.append(lambda pieces: chain(pieces, (b"\r",)))
        if kept.is_too_much and (ways or fields.is_multipart):
            yield Unlisted(name, Why.LIMIT, "form: servers differ about a part of this size")
            continue
        for way in ways:
            chunks = partial(way, kept)
            yield [Member(name, None, is_exact=False, chunks=chunks, is_again=True)]
        if fields.is_multipart and depth >= MAX_DEPTH:
            yield Unlisted(name, Why.LIMIT, "form: too many multiparts in each other")
        elif fields.is_multipart:
            yield from read_again(_parts(Lines(Stored(kept)), fields.boundaries, depth + 1))
