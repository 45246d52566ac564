"""The expander of Outlook's mail stores (pst, ost, pab).

Members are the files attached to messages.

All nodes are examined, including nodes below other nodes, and nodes of deleted messages that are in
no folder. Each node that has the data of an attachment is a member, even if the node has another
type or no name. The HTML body of a message is a member as well, and so is each file that is encoded
in a text body. A store with a password can be read without this password. Limits: bodies in
compressed RTF are not opened, and an attachment that is only a link to a file has no data.
"""

from __future__ import annotations

import codecs
import struct
from collections.abc import Iterator, Sequence
from functools import partial
from itertools import islice
from typing import cast

from msgspec.structs import replace

from hashclient.containers.forward import in_pieces
from hashclient.containers.interface import Data, Member, NotReadError, Stream, Unlisted, Why
from hashclient.containers.mail import files_as_members
from hashclient.containers.mimebinary import FileFinder
from hashclient.containers.pstnodes import HEAPS, Node, Nodes

#: The number of members in one batch; batches are small, because some members keep their bytes in
#: memory.
_BATCH = 200
#: How deeply nodes may be nested; a message within a message takes two levels.
_MAX_DEPTH = 64
_MAX_FOLDERS = 10_000
#: For the limit of read bytes, each node counts as this number of bytes, so that a store with very
#: many empty nodes also reaches the limit. The nodes of a normal file use less than an eighth of
#: the limit.
_NODE_BYTES = 256
_MAX_NAME_BYTES, _MAX_PATH_BYTES = 512, 1000
#: The header of a heap (small items in the blocks of a node): offset of the item list, fixed byte
#: 0xEC, kind of the heap, number of the root item.
_HEAP = struct.Struct("<HBBL")
_IS_HEAP, _IS_PROPERTIES, _IS_TREE = 0xEC, 0xBC, (0xB5, 2, 6)
_IS_TABLE, _IS_OLD_TABLE = 0x7C, 0xAC
_MAX_BLOCKS, _MAX_LEVELS, _MAX_ITEMS, _MAX_BELOW = 1 << 16, 8, 2047, 1 << 17
#: `_TREE`: the header of a tree in a heap; `_BRANCH`: a row that leads to further rows;
#: `_PROPERTY`: a property, with its number, its type, and its value or the place of its value.
_TREE, _BRANCH, _PROPERTY = struct.Struct("<BBBBL"), struct.Struct("<HL"), struct.Struct("<HHL")
#: `_TABLE`: the header of a table, with the number of columns; `_COLUMN`: the type and the number
#: of a column.
_TABLE, _COLUMN = struct.Struct("<xB20x"), struct.Struct("<HH4x")
#: The lowest five bits of a node's number are its type: `_VALUES` is the type for a value that is
#: too long for a heap, and `_ATTACHMENT` is the type of an attachment.
_VALUES, _ATTACHMENT = 0x1F, 5
#: The number of the node of the store itself, and the types of folders and messages. Such nodes
#: must have properties, unless they are below another node.
_STORE, _AT_THE_TOP = 0x21, (2, 4, 8)
#: `_PROPERTY_NAMES`: the number of the node that defines the names of properties with numbers from
#: 0x8000 on; `_NAMED_ROW`: the number, kind and place of such a property.
_PROPERTY_NAMES, _NAMED, _NAMED_ROW, _MAX_NAMED_BLOCKS = 0x61, 3, struct.Struct("<LHH"), 64

_OBJECT, _TEXT, _BYTES = 13, 31, 258
_DATA, _METHOD, _HTML, _BODY = 0x3701, 0x3705, 0x1013, 0x1000
#: The properties that readpst extracts as attached files: the data of an attachment, and "secure"
#: bodies.
_FILES = _DATA, 0x6F02, 0x6F04
_EMBEDDED = 5
_NAMES = 0x3707, 0x3704, 0x3001, 0x0037

_Found = list[Member] | Unlisted


class Pst:
    """The expander of Outlook's mail stores."""

    name = "pst"
    seeks = True

    def members(self, data: Data | Stream) -> Iterator[list[Member] | Unlisted]:
        """Yield the attachments of messages, in batches."""
        batch: list[Member] = []
        try:
            for found in _Walk(Nodes(cast(Data, data))).members():
                if isinstance(found, Unlisted):
                    yield found
                    continue
                batch += found
                if len(batch) >= _BATCH:
                    yield batch
                    batch = []
        except NotReadError as error:
            yield Unlisted(b"", error.why, error.detail)
        yield batch


class _Walk:
    """Visits all nodes of a store."""

    def __init__(self, nodes: Nodes) -> None:
        self._nodes = nodes
        self._folders: dict[int, bytes] = {}

    def members(self) -> Iterator[_Found]:
        """Yield the members in each node."""
        for node in self._nodes.all():
            yield from self._members(node, self._folder(node), 0)
        if self._nodes.faults:
            yield Unlisted(b"", Why.DAMAGED, "pst: a part of it is missing or damaged")

    def _folder(self, node: Node, depth: int = 0) -> bytes:
        """Return the path of the folder that a node is in."""
        if node.parent not in self._folders:
            path, folder = b"", self._nodes.find(node.parent)
            if folder is not None and folder.parent != folder.number and depth < _MAX_DEPTH:
                try:
                    name = _Properties(self._nodes, folder).name()
                except struct.error:
                    name = b""
                path = _joined(self._folder(folder, depth + 1), name)
            if len(self._folders) >= _MAX_FOLDERS:
                self._folders.clear()
            self._folders[node.parent] = path
        return self._folders[node.parent]

    def _members(self, node: Node, path: bytes, depth: int) -> Iterator[_Found]:
        """Yield the members in a node, and in all nodes below it."""
        inner: list[_Found] = []
        faults, kind = self._nodes.faults, node.number & _VALUES
        is_names = not depth and node.number == _PROPERTY_NAMES
        try:
            values = _Properties(self._nodes, node)
            path = _joined(path, values.name() or b"node-%x" % node.number)
            inner.extend(values.members(path, _FILES if is_names else (*_FILES, _HTML, _BODY)))
            if depth:
                # A table of an older kind is also examined, because some programs extract a file
                # from it.
                is_whole, must = values.kind != _IS_OLD_TABLE, kind == _ATTACHMENT
            else:
                is_whole = not is_names or not values.names_file()
                must = kind in _AT_THE_TOP or node.number == _STORE or is_names
            is_whole = is_whole and (values.are_here or not must) and self._nodes.faults == faults
            # The values are deleted to save memory, because the properties of all nodes above are
            # still in memory while nested nodes are visited.
            del values
        except struct.error:
            is_whole = False
        if not is_whole:
            yield Unlisted(path, Why.DAMAGED, "pst: properties that are damaged")
        yield from inner
        if node.below and depth == _MAX_DEPTH:
            yield Unlisted(path, Why.LIMIT, "pst: too many messages in one another")
            return
        for one in self._nodes.below(node.below):
            yield from self._members(one, path, depth + 1)


class _Properties:
    """The properties of one node; there are none if the node contains something else."""

    def __init__(self, nodes: Nodes, node: Node) -> None:
        """Read where the values of the properties are.

        Raises:
            struct.error: the properties are damaged.
        """
        self._nodes = nodes
        nodes.take(_NODE_BYTES)
        self.below: dict[int, Node] = {}
        for one in nodes.below(node.below):
            nodes.faults += one.number in self.below
            self.below[one.number] = one
            if len(self.below) > _MAX_BELOW:
                raise NotReadError(Why.LIMIT, "pst: too many nodes below one")
        self._values: dict[int, tuple[int, int]] = {}
        self.kind = 0
        numbers = nodes.blocks(node.data) if node.data else iter(())
        self._blocks = list(islice(numbers, 1))
        content = nodes.block(self._blocks[0]) if self._blocks else b""
        if len(content) < _HEAP.size:
            return
        at, mark, kind, top = _HEAP.unpack_from(content)
        is_value = node.number & _VALUES == _VALUES and not node.below
        if mark != _IS_HEAP or kind not in HEAPS:
            is_list = content[:2] == b"\1\1"
            if (is_list or not is_value) and nodes.hides_heap(content):
                raise struct.error
            return
        self._blocks += islice(numbers, _MAX_BLOCKS)
        # The bytes of an attachment may begin like a heap by chance. If the fields of the heap
        # header are impossible, the node contains an attachment and no properties.
        block, item = self._split(top)
        if is_value and (at >= len(content) or top & 0xF or not item or block >= len(self._blocks)):
            return
        self.kind = kind
        if kind == _IS_TABLE:
            # The rows of a table are also examined, because some programs extract a file from them.
            raw = self._item(top)
            (count,) = _TABLE.unpack_from(raw)
            columns = raw[_TABLE.size :][: count * _COLUMN.size]
            listed = [number for _, number in _COLUMN.iter_unpack(columns)]
            if not set(_FILES).isdisjoint(listed) or len(listed) < count:
                raise struct.error
        if self.are_here:
            *tree, levels, root = _TREE.unpack_from(self._item(top))
            if tuple(tree) != _IS_TREE or levels > _MAX_LEVELS:
                raise struct.error
            for raw in self._leaves(root, levels):
                for number, type_, value in _PROPERTY.iter_unpack(raw):
                    nodes.faults += number in self._values
                    self._values[number] = type_, value

    @property
    def are_here(self) -> bool:
        """Whether the node has properties."""
        return self.kind == _IS_PROPERTIES

    def _leaves(self, item: int, levels: int) -> Iterator[bytes]:
        raw = self._item(item)
        self._nodes.take(len(raw) + _TREE.size)
        if not levels:
            yield raw
            return
        for _, below in _BRANCH.iter_unpack(raw):
            yield from self._leaves(below, levels - 1)

    def _split(self, number: int) -> tuple[int, int]:
        """Return the block that contains an item, and the index of the item in this block."""
        bits = self._nodes.form.item_bits
        return number >> 5 + bits, number >> 5 & (1 << bits) - 1

    def _item(self, number: int) -> bytes:
        """Return the item of the heap with the number `number`."""
        if not number:
            return b""
        block, index = self._split(number)
        # An item with a larger index is refused, because programs disagree which bits of its number
        # are the index.
        if number & _VALUES or not 0 < index <= _MAX_ITEMS or block >= len(self._blocks):
            raise struct.error
        raw = self._nodes.block(self._blocks[block])
        (at,) = struct.unpack_from("<H", raw)
        (count,) = struct.unpack_from("<H", raw, at)
        if index > count:
            raise struct.error
        begin, end = struct.unpack_from("<HH", raw, at + 2 + 2 * index)
        if not begin <= end <= len(raw):
            raise struct.error
        return raw[begin:end]

    def _place(self, number: int) -> bytes | Node:
        """Return the value of a property: its bytes, or the node that contains the bytes."""
        type_, value = self._values[number]
        if type_ == _OBJECT:
            (value,) = struct.unpack_from("<L", self._item(value))
        elif not value & _VALUES:
            return self._item(value)
        elif value & _VALUES != _VALUES:
            raise struct.error  # some programs read an item of the heap instead
        if value not in self.below:
            raise struct.error
        return self.below[value]

    def _pieces(self, number: int) -> Iterator[bytes]:
        place = self._place(number)
        return in_pieces(place) if isinstance(place, bytes) else self._nodes.chunks(place.data)

    def name(self) -> bytes:
        """Return the name of the node; empty if the node has no name."""
        for number in _NAMES:
            if number in self._values:
                try:
                    name = b"".join(islice(self._pieces(number), 1))[:_MAX_NAME_BYTES]
                except (struct.error, NotReadError):
                    self._nodes.faults += 1
                    continue
                if self._values[number][0] == _TEXT:
                    name = name.decode("utf-16-le", "replace").encode()
                # A subject may begin with the byte 1 and the length of a prefix such as `Re: `.
                name = name[2:] if name[:1] == b"\1" else name
                if name:
                    return name.replace(b"/", b"_")
        return b""

    def names_file(self) -> bool:
        """Return whether the node defines named properties, one of which is an attached file."""
        if _NAMED not in self._values:
            return False
        try:
            pieces = list(islice(self._pieces(_NAMED), _MAX_NAMED_BLOCKS + 1))
        except NotReadError:
            return True
        raw = b"".join(pieces)
        rows = _NAMED_ROW.iter_unpack(raw[: len(raw) // _NAMED_ROW.size * _NAMED_ROW.size])
        is_one = any(number in _FILES and not kind & 1 for number, kind, _ in rows)
        return is_one or len(pieces) > _MAX_NAMED_BLOCKS

    def members(self, path: bytes, numbers: Sequence[int]) -> Iterator[_Found]:
        """Yield the attached file or object of the node, and the encoded files in its body."""
        for number in numbers:
            if number not in self._values or number == _BODY:
                continue
            name = _joined(path, b"body.html") if number == _HTML else path
            if number in _FILES and self._values[number][0] not in (_OBJECT, _BYTES):
                yield Unlisted(path, Why.UNSUPPORTED, "pst: a file that is no bytes")
            place = self._place(number)
            if isinstance(place, bytes):
                chunks = partial(in_pieces, place)
                yield [Member(name, len(place), is_exact=True, chunks=chunks)]
            elif number != _DATA or not self._is_message(place):
                size, read = self._nodes.size(place.data), partial(self._nodes.chunks, place.data)
                yield [Member(name, size, is_exact=size is not None, chunks=read)]
        if _BODY in self._values and _BODY in numbers:
            finder, text = FileFinder(), self._pieces(_BODY)
            if self._values[_BODY][0] == _TEXT:
                # The text is converted to Latin-1, because encoded files only contain characters of
                # one byte.
                letters = codecs.iterdecode(text, "utf-16-le", "replace")
                text = (piece.encode("latin-1", "replace") for piece in letters)
            try:
                for _ in finder.watch(text):
                    pass
            except NotReadError as error:
                yield Unlisted(path, error.why, error.detail)
            named = (replace(file, name=_joined(path, file.name)) for file in finder.files)
            yield from files_as_members(list(named))

    def _is_message(self, node: Node) -> bool:
        """Return whether `node` contains an attached message, which has properties."""
        is_said = self._values.get(_METHOD, (0, 0))[1] == _EMBEDDED
        return is_said and _Properties(self._nodes, node).are_here


def _joined(path: bytes, name: bytes) -> bytes:
    return b"/".join(filter(None, (path[-_MAX_PATH_BYTES:], name)))
