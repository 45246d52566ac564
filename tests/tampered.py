"""Changes of a package; every verifier has to refuse each change."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path

Edit = Callable[[Path], None]


def change(path: Path, edit: Callable[[bytes], bytes]) -> None:
    """Change the content of a file; an edit without an effect is a mistake in the test."""
    text = path.read_bytes()
    edited = edit(text)
    assert edited != text
    path.write_bytes(edited)


def _in(name: str, edit: Callable[[bytes], bytes]) -> Edit:
    return lambda package: change(package / name, edit)


def _replaced(name: str, pattern: bytes, new: bytes) -> Edit:
    return _in(name, lambda text: re.sub(pattern, new, text, count=1))


def _lines(edit: Callable[[list[bytes]], list[bytes]]) -> Edit:
    return _in("custody.jsonl", lambda text: b"".join(edit(text.splitlines(keepends=True))))


def _line(number: int, edit: Callable[[bytes], bytes]) -> Edit:
    def changed(lines: list[bytes]) -> list[bytes]:
        lines[number] = edit(lines[number])
        return lines

    return _lines(changed)


def _evidence(package: Path) -> Path:
    (path,) = (package / "evidence").iterdir()
    return path


def _of_evidence(edit: Callable[[bytes], bytes]) -> Edit:
    return lambda package: change(_evidence(package), edit)


def _removed(name: str) -> Edit:
    def remove(package: Path) -> None:
        path = package / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()

    return remove


def _added(name: str) -> Edit:
    def add(package: Path) -> None:
        (package / name).write_bytes(b"x")

    return add


def _linked(name: str) -> Edit:
    def link(package: Path) -> None:
        path = package / name
        moved = package.parent / f"moved {package.name}"
        path.rename(moved)
        path.symlink_to(moved)

    return link


def _evidence_linked(package: Path) -> None:
    _linked(f"evidence/{_evidence(package).name}")(package)


def _evidence_renamed(package: Path) -> None:
    _evidence(package).rename(package / "evidence/bbbbbbbbbb.age")


def _evidence_twice(package: Path) -> None:
    shutil.copyfile(_evidence(package), package / "evidence/bbbbbbbbbb.age")


def _pipe(package: Path) -> None:
    (package / "README.txt").unlink()
    os.mkfifo(package / "README.txt")


def _directory(package: Path) -> None:
    (package / "README.txt").unlink()
    (package / "README.txt").mkdir()


def _flipped(text: bytes) -> bytes:
    return text[:-20] + bytes([text[-20] ^ 1]) + text[-19:]


def _seq(text: bytes) -> bytes:
    return re.sub(rb'"seq":(\d+)', lambda m: b'"seq":%d' % (int(m[1]) + 1), text)


_DOCUMENT: dict[str, Edit] = {
    "another path": _replaced("document.json", rb'"path": "/', b'"path": "/x'),
    "another time": _replaced("document.json", rb'"created": "2', b'"created": "3'),
    "viewed": _replaced("document.json", rb'"viewed": false', b'"viewed": true'),
    "another state": _replaced("document.json", rb'"quarantined"', b'"found"'),
    "another organisation": _replaced("document.json", rb'"Example"', b'"Exemple"'),
    "another machine": _replaced("document.json", rb'"machine": "', b'"machine": "x'),
    "another entry": _replaced("document.json", rb'"entry": "', b'"entry": "x'),
    "another category": _replaced("document.json", rb'"synthetic"', b'"harmless"'),
    "an entry withdrawn": _replaced(
        "document.json", rb'"withdrawn_generation": null', b'"withdrawn_generation": 4'
    ),
    "another recipient": _replaced(
        "document.json", rb'"recipients": \[[^]]*\]', b'"recipients": []'
    ),
    "a key more": _replaced("document.json", rb'"tool": ', b'"more": 1, "tool": '),
    "a key twice": _replaced("document.json", rb'"tool": ', b'"tool": null, "tool": '),
    "an older format": _replaced("document.json", rb"report/2", b"report/1"),
    "a space": _in("document.json", lambda text: text + b" "),
    "a byte order mark": _in("document.json", lambda text: b"\xef\xbb\xbf" + text),
    "empty": _in("document.json", lambda _: b""),
    "not JSON": _in("document.json", lambda text: text[1:]),
    "deep": _in("document.json", lambda _: b"[" * 100_000),
}
_CUSTODY: dict[str, Edit] = {
    "without a line": _lines(lambda lines: lines[:2] + lines[3:]),
    "without the first line": _lines(lambda lines: lines[1:]),
    "without the last line": _lines(lambda lines: lines[:-1]),
    "lines exchanged": _lines(lambda lines: [lines[0], lines[2], lines[1], *lines[3:]]),
    "a line twice": _lines(lambda lines: [*lines[:2], lines[1], *lines[2:]]),
    "a second genesis": _lines(lambda lines: [*lines, lines[0]]),
    "an empty line": _lines(lambda lines: [*lines[:2], b"\n", *lines[2:]]),
    "the last line open": _lines(lambda lines: [*lines[:-1], lines[-1].rstrip(b"\n")]),
    "another number": _line(1, _seq),
    "another event": _line(1, lambda line: line.replace(b'"match"', b'"patch"')),
    "another name": _line(-1, lambda line: line.replace(b'"by":"tester"', b'"by":"taster"')),
    "another machine": _line(-1, lambda line: line.replace(b'"machine":"', b'"machine":"x')),
    "a hash changed": _line(1, lambda line: re.sub(rb'"hash":"..', b'"hash":"zz', line)),
    "a signature changed": _line(1, lambda line: re.sub(rb'"sig":"....', b'"sig":"0000', line)),
    "a signature removed": _line(1, lambda line: re.sub(rb',"sig":"[0-9a-f]*"', b"", line)),
    "a space within": _line(1, lambda line: line.replace(b'"seq":', b'"seq": ')),
    "a key twice": _line(1, lambda line: line.replace(b'"seq":', b'"seq":1,"seq":')),
    "another key": _line(
        0, lambda line: re.sub(rb'"public_key":"....', b'"public_key":"0000', line)
    ),
    "DOS line ends": _in("custody.jsonl", lambda text: text.replace(b"\n", b"\r\n")),
}
#: Changes of the checkpoint that no signed hash covers; verifiers must refuse them as well.
_CHECKPOINT: dict[str, Edit] = {
    name: _in("checkpoint.json", edit)
    for name, edit in {
        "space before": lambda text: b" " + text,
        "space after": lambda text: text + b" ",
        "newline before": lambda text: b"\n" + text,
        "newline after": lambda text: text + b"\n",
        "no newline": lambda text: text.rstrip(b"\n"),
        "DOS line end": lambda text: text.replace(b"\n", b"\r\n"),
        "byte order mark": lambda text: b"\xef\xbb\xbf" + text,
        "space within": lambda text: text.replace(b'"seq":', b'"seq": '),
        "key twice": lambda text: text.replace(b'"seq":', b'"seq":1,"seq":'),
        "key more": lambda text: text.replace(b'"seq":', b'"more":1,"seq":'),
        "other order": lambda text: json.dumps(json.loads(text), sort_keys=True).encode(),
        "number as a float": lambda text: re.sub(rb'"seq":(\d+)', rb'"seq":\1.0', text),
        "number that is none": lambda text: re.sub(rb'"seq":\d+', b'"seq":NaN', text),
        "number of 2000 digits": lambda text: text.replace(b'"seq":', b'"seq":' + b"9" * 2000),
        "another number": _seq,
        "deep": lambda _: b"[" * 4000,
        "twice": lambda text: text + text,
    }.items()
}
_FILES: dict[str, Edit] = {
    "a file more": _added("more.txt"),
    "a hidden file more": _added(".more"),
    "evidence more": _added("evidence/more.age"),
    "evidence twice": _evidence_twice,
    "evidence renamed": _evidence_renamed,
    "evidence missing": lambda package: _evidence(package).unlink(),
    "evidence cut": _of_evidence(lambda text: text[:-1]),
    "evidence empty": _of_evidence(lambda _: b""),
    "evidence longer": _of_evidence(lambda text: text + b"x"),
    "evidence with another byte": _of_evidence(_flipped),
    "evidence is a link": _evidence_linked,
    "no directory of evidence": _removed("evidence"),
    "the directory is a link": _linked("evidence"),
    "the document is a link": _linked("document.json"),
    "the README is a pipe": _pipe,
    "the README is a directory": _directory,
    "another README": _in("README.txt", lambda text: text.replace(b"report", b"Report", 1)),
    "no README": _removed("README.txt"),
    "no document": _removed("document.json"),
    "no custody": _removed("custody.jsonl"),
    "no checkpoint": _removed("checkpoint.json"),
}
#: All changes, for a package of a `Desk` with one file of evidence.
TAMPERINGS: dict[str, Edit] = {
    f"{where}: {name}": edit
    for where, edits in {
        "document": _DOCUMENT,
        "custody": _CUSTODY,
        "checkpoint": _CHECKPOINT,
        "files": _FILES,
    }.items()
    for name, edit in edits.items()
}
