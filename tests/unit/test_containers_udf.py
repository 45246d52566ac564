"""The tree of UDF: the allowed places of its parts, and the limits on their number."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence

import pytest

from fixtures.images import SECTOR, tag
from hashclient.containers import udf
from hashclient.containers.forward import PIECE_BYTES
from hashclient.containers.interface import NotReadError, Unlisted, Why
from tests.opened import Whole

#: The sectors of the image at which its descriptors and its partition begin.
DESCRIPTORS, START = 32, 304
LONG, short = struct.Struct("<2LH6x"), struct.Struct("<2L").pack
PLAIN = struct.pack("<BBHH", 1, 6, 1, 0)
SEVENTH = struct.pack("<BBHH", 1, 6, 1, 7)
DIRECTORY, FILE = 4, 5
PARENT = b"\0", 10, 1
Entry = tuple[bytes, int, int]
Read = tuple[dict[bytes, bytes], list[Why]]


def entry(
    kind: int, form: int, size: int, places: bytes, *, number: int = 261, used: bytes = b""
) -> bytes:
    """Return the entry of a file, with `used` bytes of attributes before the list of places."""
    icb = bytes(4) + struct.pack("<HHHBB6xH", 4, 0, 1, 0, kind, form)
    rest = icb + bytes(20) + struct.pack("<Q", size)
    rest = rest.ljust((208 if number == 266 else 168) - 16, b"\0")
    return tag(number, rest + struct.pack("<2L", len(used), len(places)) + used + places)


def inside(content: bytes, *, kind: int = FILE, number: int = 261, used: bytes = b"") -> bytes:
    return entry(kind, 3, len(content), content, number=number, used=used)


def file(size: int, *places: bytes, form: int = 0) -> bytes:
    return entry(FILE, form, size, b"".join(places))


def names(*entries: Entry, used: bytes = b"", number: int = 257, of: int = 0) -> bytes:
    """Return a directory of names, flags and blocks; `used` bytes precede each name."""
    made = b""
    for name, flags, block in entries:
        rest = struct.pack("<HBB", 1, flags, len(name)) + LONG.pack(SECTOR, block, of)
        made += tag(number, rest + struct.pack("<H", len(used)) + used + name)
        made += bytes(-len(made) % 4)
    return made


def directory(*entries: Entry, used: bytes = b"", of: int = 0) -> bytes:
    return inside(names(*entries, used=used, of=of), kind=DIRECTORY)


def volume(
    *maps: bytes, block: int = SECTOR, count: int | None = None, root: int = 0, at: int = 0
) -> bytes:
    """Return the descriptor of a volume with partition maps; `root` names the map of the root."""
    head = bytes(196) + struct.pack("<L", block) + bytes(32) + LONG.pack(block, at, root)
    number = len(maps) if count is None else count
    rest = head + struct.pack("<2L", 6, number).ljust(176, b"\0") + b"".join(maps)
    return tag(6, rest.ljust(SECTOR - 16, b"\0"))


def partition(number: int, start: int = START) -> bytes:
    return tag(5, bytes(6) + struct.pack("<H", number) + bytes(164) + struct.pack("<2L", start, 9))


def version(number: int, descriptor: bytes) -> bytes:
    """Return a copy of a descriptor with another version."""
    kind, rest = struct.unpack_from("<H", descriptor)[0], descriptor[20:]
    return tag(kind, struct.pack("<L", number) + rest)


def map_of(name: bytes, number: int = 0, place: int = 0) -> bytes:
    """Return a partition map of another kind."""
    head = b"\2\x40\0\0\0" + name.ljust(31, b"\0") + b"\1\0"
    return (head + struct.pack("<HL", number, place)).ljust(64, b"\0")


def file_set(partition: int = 0, number: int = 256) -> bytes:
    return tag(number, bytes(384) + LONG.pack(SECTOR, 1, partition))


OTHER = tag(4, b"of a program")
END = tag(8, b"")
ROOT = PARENT, (b"\x08a", 0, 2)
USUAL = volume(PLAIN), partition(0), END
MARKS = {16: b"NSR02"}
TREE = {0: file_set(), 1: directory(*ROOT)}


def disk(
    blocks: Mapping[int, bytes],
    descriptors: Sequence[bytes] = USUAL,
    *,
    block: int = SECTOR,
    said: int | None = None,
    at: int = DESCRIPTORS,
    anchor: int = 256,
    marks: Mapping[int, bytes] = MARKS,
    sectors: int = 600,
) -> bytes:
    """Return an image of `sectors` whose partition has a file set, a root and the `blocks`."""
    made = bytearray(sectors * SECTOR)
    length = len(descriptors) * SECTOR if said is None else said
    places = {sector * SECTOR + 1: mark for sector, mark in marks.items()}
    places |= {(at + number) * SECTOR: one for number, one in enumerate(descriptors)}
    places[anchor * SECTOR] = tag(2, struct.pack("<2L", length, at))
    places |= {START * SECTOR + n * block: content for n, content in {**TREE, **blocks}.items()}
    for place, content in places.items():
        made[place : place + len(content)] = content
    return bytes(made)


def read(data: bytes, size: int | None = None) -> Read:
    """Return the files by their names, and the reasons why something is unread."""
    files: dict[bytes, bytes] = {}
    reasons = []
    whole = Whole(data)
    whole.size = len(data) if size is None else size
    for found in udf.members(whole, set()):
        if isinstance(found, Unlisted):
            reasons.append(found.why)
            continue
        (member,) = found
        assert member.is_exact
        try:
            pieces = list(member.chunks())
        except NotReadError as error:
            reasons.append(error.why)
            continue
        assert all(0 < len(piece) <= PIECE_BYTES for piece in pieces)
        files[member.name] = b"".join(pieces)
        assert len(files[member.name]) == member.size
    return files, reasons


ONE = {2: inside(b"benign")}
READ: Read = {b"a": b"benign"}, []
ZEROS: Read = {b"a": bytes(3) + b"benign"}, []
NONE: Read = {}, []
LONG_FILE = b"x" * PIECE_BYTES + b"y"
DAMAGED: Read = {}, [Why.DAMAGED]
UNSUPPORTED: Read = {}, [Why.UNSUPPORTED]
LIMIT: Read = {}, [Why.LIMIT]


def blocks(size: int) -> bytes:
    """Return an image whose block size is `size`."""
    start = START * SECTOR // size
    return disk(ONE, (volume(PLAIN, block=size), partition(0, start)), block=size)


@pytest.mark.parametrize(
    ("data", "found"),
    [
        (disk(ONE), READ),
        # The identifiers of the volume.
        (disk(ONE, marks={16: b"NSR03"}), READ),
        (disk(ONE, marks={16: b"BEA01", 17: b"NSR02"}), READ),
        (disk(ONE, marks={16: b"BEA01", 18: b"NSR02"}), NONE),
        (disk(ONE, marks={**dict.fromkeys(range(16, 79), b"CD001"), 79: b"NSR02"}, at=90), READ),
        (disk(ONE, marks={**dict.fromkeys(range(16, 80), b"CD001"), 80: b"NSR02"}, at=90), READ),
        # The anchor of the volume.
        (disk(ONE, anchor=599), READ),
        (disk(ONE, anchor=343), READ),
        (disk(ONE, anchor=257), DAMAGED),
        (disk({}, anchor=99, marks={16: b"NSR02"})[: 200 * SECTOR], DAMAGED),
        # The descriptors of the volume.
        (disk(ONE, (OTHER, partition(0), OTHER, volume(PLAIN))), READ),
        (disk(ONE, (volume(PLAIN), partition(0), OTHER, tag(7, b"of a program"), END)), READ),
        (disk(ONE, (volume(PLAIN), END, partition(0))), UNSUPPORTED),
        (disk(ONE, (volume(PLAIN), b"", partition(0))), UNSUPPORTED),
        (disk(ONE, (partition(0), END, volume(PLAIN))), DAMAGED),
        (disk(ONE, USUAL, said=2 * SECTOR), READ),
        (disk(ONE, USUAL, said=2 * SECTOR - 1), UNSUPPORTED),
        (disk(ONE, (*[OTHER] * 254, *USUAL), anchor=599), READ),
        (disk(ONE, (*[OTHER] * 255, *USUAL), anchor=599), LIMIT),
        (disk(ONE, (version(2, volume(PLAIN)), version(1, volume()), partition(0))), READ),
        (disk(ONE, (version(1, volume()), version(2, volume(PLAIN)), partition(0))), READ),
        (disk(ONE, (volume(PLAIN), version(2, partition(0)), version(1, partition(0, 9)))), READ),
        (disk(ONE, (partition(0), volume(PLAIN)), at=598), READ),
        (disk(ONE, (partition(0), volume(PLAIN)), at=598)[:-1], DAMAGED),
        # Lengths of the blocks of the partition.
        (blocks(511), DAMAGED),
        (blocks(512), READ),
        (blocks(1 << 15), READ),
        (blocks((1 << 15) + 1), DAMAGED),
        # Maps of the partitions.
        (disk(ONE, (volume(SEVENTH), partition(7))), READ),
        (disk(ONE, (volume(PLAIN), partition(1))), UNSUPPORTED),
        (disk(ONE, (volume(map_of(b"*UDF Virtual Partition")), partition(0))), UNSUPPORTED),
        (disk(ONE, (volume(map_of(b"*UDF Sparable Partition")), partition(0))), READ),
        (disk(ONE, (volume(map_of(b"*UDF Sparable Partition", 5)), partition(0))), UNSUPPORTED),
        (disk(ONE, (volume(map_of(b"x"), PLAIN, root=1), partition(0))), READ),
        (disk(ONE, (volume(PLAIN, PLAIN, count=1, root=1), partition(0))), DAMAGED),
        (disk(ONE, (volume(*[PLAIN] * 70, root=63), partition(0))), READ),
        (disk(ONE, (volume(*[PLAIN] * 70, root=64), partition(0))), DAMAGED),
        (disk(ONE, (volume(b"\1\xff" + PLAIN[2:], count=64, root=63), partition(0))), READ),
        (disk(ONE, (volume(b"\1\0" + PLAIN[2:], count=2, root=1), partition(0))), READ),
        (disk(ONE, (volume(SEVENTH, map_of(b"x", 7), SEVENTH, root=2), partition(7))), READ),
        (
            disk(
                {0: file_set(2), 1: directory(*ROOT, of=2), **ONE},
                (volume(PLAIN, PLAIN, SEVENTH, root=2), partition(0, 9), partition(7)),
            ),
            READ,
        ),
        # The tree of directories.
        (disk({0: file_set(number=255), **ONE}), DAMAGED),
        (disk({0: file_set(number=257), **ONE}), DAMAGED),
        (disk({1: inside(names(*ROOT)), **ONE}), DAMAGED),
        (disk({1: inside(names(*ROOT), kind=3), **ONE}), DAMAGED),
        (disk({1: inside(names(*ROOT, number=256), kind=DIRECTORY), **ONE}), DAMAGED),
        (disk({1: inside(names(*ROOT, number=258), kind=DIRECTORY), **ONE}), DAMAGED),
        (disk({1: directory((b"\x08a", 1, 2)), **ONE}), READ),
        (disk({1: directory((b"\x08a", 4, 2)), **ONE}), NONE),
        (disk({1: directory((b"\x08a", 8, 2)), **ONE}), NONE),
        (disk({1: directory(*ROOT, ROOT[1]), **ONE}), READ),
        (disk({1: directory(*ROOT, (b"\x08b", 2, 1)), **ONE}), READ),
        (
            disk({1: directory(*ROOT, ROOT[1], (b"\x08b", 0, 3)), **ONE, 3: inside(b"other")}),
            ({b"a": b"benign", b"b": b"other"}, []),
        ),
        (disk({1: directory((b"\x08a", 0, 2), (b"\x08n", 0, 3)), **ONE, 3: inside(b"")}), READ),
        (disk({1: inside(names((b"", 0, 2))[:38], kind=DIRECTORY), **ONE}), ({b"": b"benign"}, [])),
        (disk({1: inside(names((b"", 0, 2))[:37], kind=DIRECTORY), **ONE}), NONE),
        (disk({1: inside(names(*ROOT) + bytes(37), kind=DIRECTORY), **ONE}), READ),
        (disk({1: inside(names(*ROOT) + bytes(38), kind=DIRECTORY), **ONE}), (READ[0], DAMAGED[1])),
        # Entries of files in UDF.
        (disk({2: inside(b"benign", number=266)}), READ),
        (disk({2: inside(b"benign", number=266, used=b"more")}), READ),
        (disk({2: inside(b"benign", used=b"more")}), READ),
        (disk({2: inside(b"benign", number=260)}), DAMAGED),
        (disk({2: entry(FILE, 3, 6, b"benign, and more")}), READ),
        (disk({2: entry(FILE, 3, 99, b"benign")}), READ),
        (disk({2: inside(b"x" * 1872)}), ({b"a": b"x" * 1872}, [])),
        (disk({2: inside(b"x" * 1873)}), DAMAGED),
        # The places of a file's bytes.
        (disk({2: file(6, short(6, 5)), 5: b"benign"}), READ),
        (disk({2: entry(FILE, 8, 6, short(6, 5)), 5: b"benign"}), READ),
        (disk({2: entry(FILE, 1, 6, LONG.pack(6, 5, 0)), 5: b"benign"}), READ),
        (disk({2: entry(FILE, 1, 6, LONG.pack(6, 5, 1)), 5: b"benign"}), DAMAGED),
        (disk({2: entry(FILE, 2, 6, LONG.pack(6, 5, 0)), 5: b"benign"}), UNSUPPORTED),
        (disk({2: entry(FILE, 4, 6, short(6, 5)), 5: b"benign"}), UNSUPPORTED),
        (disk({2: file(6, short(7, 5)), 5: b"benign"}), READ),
        (disk({2: file(7, short(6, 5)), 5: b"benign"}), DAMAGED),
        (disk({2: file(6, b"")}), DAMAGED),
        (disk({2: file(6, short(6, 5) + b"odd"), 5: b"benign"}), READ),
        (disk({2: file(6, short(3, 5), short(3, 6)), 5: b"ben", 6: b"ign"}), READ),
        (disk({2: file(6, short(3, 5), short(0, 9), short(3, 6)), 5: b"ben", 6: b"ign"}), DAMAGED),
        (disk({2: file(9, short(3 | 1 << 30, 5), short(6, 5)), 5: b"benign"}), ZEROS),
        (disk({2: file(9, short(3 | 2 << 30, 5), short(6, 5)), 5: b"benign"}), ZEROS),
        # Further places are stored in a separate block, which says how many bytes it uses.
        (
            disk({
                2: file(6, short(3, 5), short(SECTOR | 3 << 30, 7)), 5: b"ben", 6: b"ign",
                7: bytes(20) + struct.pack("<L", 8) + short(3, 6) + short(9, 9),
            }),
            READ,
        ),
        (
            disk({
                2: file(6, short(31 | 3 << 30, 7)), 5: b"benign",
                7: bytes(20) + struct.pack("<L", 8) + short(6, 5),
            }),
            DAMAGED,
        ),
        *(
            (disk({2: file(size, short(size, 5)), 5: b"x" * size}), ({b"a": b"x" * size}, []))
            for size in (PIECE_BYTES, PIECE_BYTES + 1)
        ),
        (
            disk({2: file(PIECE_BYTES + 1, short(PIECE_BYTES + 1, 90)), 90: LONG_FILE}),
            ({b"a": LONG_FILE}, []),
        ),
        (
            disk({2: file(PIECE_BYTES + 1, short(PIECE_BYTES + 1 | 1 << 30, 5))}),
            ({b"a": bytes(PIECE_BYTES + 1)}, []),
        ),
        (disk({2: file(SECTOR, short(SECTOR, 599 - START))}), ({b"a": bytes(SECTOR)}, [])),
        (disk({2: file(SECTOR, short(SECTOR, 600 - START))}), DAMAGED),
        (disk({2: file(SECTOR + 1, short(SECTOR + 1, 599 - START))}), DAMAGED),
    ],
)  # fmt: skip
def test_a_tree_is_read_wherever_its_parts_may_lie(data: bytes, found: Read) -> None:
    assert read(data) == found


def test_names_have_their_paths_in_either_coding_and_any_length() -> None:
    """Other bytes may precede a name; each directory entry begins at a multiple of four bytes."""
    texts = ["", "a", "ab", "abc", "abcd", "\xe9", "\u0416\u65e5"]
    raw = [
        (b"\x10" + t.encode("utf-16-be")) if t > "\xff" else b"\x08" + t.encode("latin-1")
        for t in texts
    ]
    for used in (b"", b"1", b"1234567"):
        files = [(name, 0, number) for number, name in enumerate(raw, 10)]
        data = disk({
            1: directory((b"\x08d", 2, 3), PARENT, used=used),
            3: directory((b"\x08e", 2, 4), (b"\x08r", 2, 1), used=used),
            4: inside(names(*files, used=used), kind=DIRECTORY),
            **{number: inside(b"%d" % number) for _, _, number in files},
        })  # fmt: skip
        wanted = {f"d/e/{t}".encode(): b"%d" % n for n, t in enumerate(texts, 10)}
        assert read(data) == (wanted, [])


def test_blocks_of_a_partition_of_metadata_lie_in_the_pieces_of_a_file() -> None:
    metadata = entry(250, 0, 3 * SECTOR, short(2 * SECTOR, 20) + short(SECTOR, 40))
    names = b"\x08a", b"\x08b"
    maps = PLAIN, map_of(b"*UDF Metadata Partition", 0, 26)
    for order, root in ((maps, 1), (maps[::-1], 0)):
        for at, found in ((1, READ), (2, ({b"b": b"other"}, [])), (3, DAMAGED)):
            tree = tag(256, bytes(384) + LONG.pack(SECTOR, at, root))
            a, b = (directory((name, 0, 50 + n), of=1 - root) for n, name in enumerate(names))
            blocks = {0: b"", 1: b"", 26: metadata, 20: tree, 21: a, 40: b}
            blocks |= {50: inside(b"benign"), 51: inside(b"other")}
            assert read(disk(blocks, (volume(*order, root=root), partition(0)))) == found


def test_a_file_at_a_known_place_is_in_another_tree() -> None:
    data = disk({2: file(6, short(6, 5)), 5: b"benign"})
    place = (START + 5) * SECTOR
    for known, count in (((place, 6), 0), ((place, 7), 1), ((place + 1, 6), 1)):
        assert len(list(udf.members(Whole(data), {known}))) == count
    # A file that only begins at the same block has other bytes.
    data = disk({2: file(SECTOR + 1, short(SECTOR, 5), short(1, 7)), 5: b"benign"})
    assert len(list(udf.members(Whole(data), {(place, SECTOR + 1)}))) == 1
    data = disk({2: file(SECTOR + 1, short(SECTOR, 5), short(1, 6)), 5: b"benign"})
    assert not list(udf.members(Whole(data), {(place, SECTOR + 1)}))


def test_no_more_is_read_than_an_image_can_hold() -> None:
    """Pieces and directories may name the same bytes again and again."""
    few = {2: file(3, short(1, 5) * 3)}
    more = {2: file(4, short(1, 5) * 4)}
    length = len(names(*ROOT))
    assert length % 4 == 0 and length // 4 < 3 * 8
    assert read(disk(few), 3 * 8)[1] == []
    assert read(disk(more), 3 * 8) == LIMIT
    assert read(disk(ONE), length // 4) == READ
    assert read(disk(ONE), length // 4 - 1) == LIMIT


@pytest.mark.parametrize(
    ("limit", "most"),
    [("_MAX_PIECES", 3), ("_MAX_FILES", 2), ("_MAX_DIRECTORY_BYTES", len(names(*ROOT)))],
)
def test_a_tree_at_a_limit_is_read_and_one_beyond_is_not(
    limit: str, most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = disk({2: file(3, short(1, 5) * 3), 5: b"x"})
    monkeypatch.setattr(udf, limit, most)
    assert read(data) == ({b"a": b"xxx"}, [])
    monkeypatch.setattr(udf, limit, most - 1)
    assert read(data)[0] == {} and len(read(data)[1]) == 1


@pytest.mark.parametrize("count", [1, 30, 200])
def test_a_file_may_have_many_pieces(count: int) -> None:
    pieces = [short(1, 5 + number % 50) for number in range(count)]
    blocks = {5 + number: bytes([number]) for number in range(50)}
    wanted = bytes(number % 50 for number in range(count))
    assert read(disk({2: file(count, *pieces), **blocks})) == ({b"a": wanted}, [])


@pytest.mark.parametrize(
    ("size", "detail"),
    [(64 << 20, "a file is shorter than it says"), ((64 << 20) + 1, "a directory is none")],
)
def test_a_directory_has_64_mib_at_most(size: int, detail: str) -> None:
    whole = Whole(disk({1: entry(DIRECTORY, 0, size, short(SECTOR, 5))}))
    whole.size = 1 << 30
    (found,) = udf.members(whole, set())
    assert isinstance(found, Unlisted) and found.detail == f"UDF: {detail}"
