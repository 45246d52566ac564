"""What may be a container, by its first bytes: whatever is, and next to nothing else."""

from __future__ import annotations

import io
import random
import tarfile

from hashclient.containers.sniffing import has_mark
from hashclient.containers.tar import Tar


def test_hardly_any_file_of_anything_is_taken_for_a_container() -> None:
    chance = random.Random(7)
    blocks = [memoryview(chance.randbytes(512)) for _ in range(20_000)]
    # Each of them would be handed to another process, to be found none.
    assert sum(map(has_mark, blocks)) < 20


def test_every_tar_that_is_opened_is_looked_at() -> None:
    for form in (tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
        out = io.BytesIO()
        with tarfile.open(fileobj=out, mode="w", format=form) as archive:
            archive.addfile(tarfile.TarInfo("a"), io.BytesIO())
        head = out.getvalue()[:512]
        for broken in range(512):
            damaged = bytearray(head)
            damaged[broken] ^= 0x41
            if Tar().sniff(bytes(damaged), b""):
                assert has_mark(memoryview(bytes(damaged))), broken
