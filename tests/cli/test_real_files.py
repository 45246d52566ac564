"""Files of the kinds that other tests make by hand, written here by real programs.

Each file is counted by the name of its kind, or opened. Files of programs that are not installed
are left out.
"""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from tests.kit import State

LISTED = b"a listed file of some length\n" * 9
SCRIPT = 'OutFile "setup.exe"\nSection\nSetOutPath $INSTDIR\nFile x.txt\nSectionEnd\n'
#: For each file name: its kind, and the command that makes the file from `x.txt`.
COUNTED = {
    "a.arj": ("arj", "arj a -y a.arj x.txt"),
    "a.lzo": ("lzop", "lzop x.txt -o a.lzo"),
    "a.wim": ("wim", "wimlib-imagex capture in a.wim"),
    "b.wim": ("wim", "7z a -twim b.wim x.txt"),
    "a.sqsh": ("file-system", "mksquashfs x.txt a.sqsh"),
    "setup.exe": ("nsis", "makensis setup.nsi"),
    "a.rz": ("rzip", "rzip -k -o a.rz x.txt"),
    "a.lrz": ("lrzip", "lrzip -q -o a.lrz x.txt"),
    "a.zpaq": ("zpaq", "zpaq a a.zpaq x.txt"),
    "a.qcow2": ("qcow", "qemu-img convert -O qcow2 x.txt a.qcow2"),
    "a.vmdk": ("vmdk", "qemu-img convert -O vmdk x.txt a.vmdk"),
    "a.vhdx": ("vhdx", "qemu-img convert -O vhdx x.txt a.vhdx"),
    "a.vdi": ("vdi", "qemu-img convert -O vdi x.txt a.vdi"),
    "a.vhd": ("vhd", "qemu-img convert -O vpc x.txt a.vhd"),
}
OPENED = {
    "a.iso": "genisoimage -quiet -o a.iso x.txt",
    "a.tar.lz": "bsdtar --lzip -cf a.tar.lz x.txt",
    "a.tar.lz4": "bsdtar --lz4 -cf a.tar.lz4 x.txt",
    "a.warc": "bsdtar --format warc -cf a.warc x.txt",
    "a.xar": "bsdtar --format xar -cf a.xar x.txt",
    "a.tar.Z": "bsdtar -Z -cf a.tar.Z x.txt",
    "a.tar.uu": "bsdtar --uuencode -cf a.tar.uu x.txt",
}


def made(state: State, name: str, command: str) -> None:
    """Let a program write a file into the tree that is scanned."""
    program = command.split(maxsplit=1)[0]
    if shutil.which(program) is None:
        pytest.skip(f"{program} is not here")
    work = state.directory / "work"
    (work / "in").mkdir(parents=True)
    (work / "x.txt").write_bytes(LISTED)
    (work / "in" / "x.txt").write_bytes(LISTED)
    (work / "setup.nsi").write_text(SCRIPT)
    subprocess.run(command.split(), cwd=work, check=True, capture_output=True)
    state.tree.mkdir(exist_ok=True)
    shutil.copy(work / name, state.tree / name)


@pytest.mark.sampled
@pytest.mark.parametrize("name", COUNTED)
def test_what_a_program_writes_is_counted_by_its_kind(tmp_path: Path, name: str) -> None:
    state = State(tmp_path, {"base": {"e-1": LISTED}})
    kind, command = COUNTED[name]
    made(state, name, command)
    result = state.scan("--jobs", "1")
    assert (result.code, result.summary["not_opened"]) == (0, {kind: 1})


@pytest.mark.sampled
@pytest.mark.parametrize("name", OPENED)
def test_what_a_program_writes_is_opened(tmp_path: Path, name: str) -> None:
    state = State(tmp_path, {"base": {"e-1": LISTED}})
    made(state, name, OPENED[name])
    result = state.scan("--jobs", "1")
    assert (result.code, result.summary["not_opened"]) == (10, {})
