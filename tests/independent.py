"""A provider that was written from docs/format.md alone, with python-tuf and a writer of Parquet.

This module uses nothing of hashclient, so a gap in the document makes the client refuse the lists.
Each method does one step that the document describes, and `publish` makes all steps visible.
"""

from __future__ import annotations

import hashlib
import importlib
import json
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from securesystemslib.signer import CryptoSigner
from tuf.api.metadata import (
    DelegatedRole,
    Delegations,
    Metadata,
    MetaFile,
    Root,
    Snapshot,
    TargetFile,
    Targets,
    Timestamp,
)

#: An entry as a row: the columns of an `add` segment, in the document's order.
Row = tuple[str, bytes | None, bytes | None, bytes | None, int | None, str, datetime | None]
COLUMNS = ("entry_id", "md5", "sha1", "sha256", "size", "category", "added")
#: A function that writes rows of the columns of `add` or `withdraw` as Parquet.
Writer = Callable[[str, Sequence[Row], Path], None]

_MASK = (1 << 64) - 1


def row_of(entry_id: str, content: bytes, category: str = "synthetic") -> Row:
    """Return the entry of a content."""
    digests = (hashlib.new(name, content).digest() for name in ("md5", "sha1", "sha256"))
    md5, sha1, sha256 = digests
    return (entry_id, md5, sha1, sha256, len(content), category, datetime.now(UTC))


def by_pyarrow(kind: str, rows: Sequence[Row], path: Path) -> None:
    """Write a segment with pyarrow and the types of the document's table."""
    import pyarrow as pa
    import pyarrow.parquet

    types = (
        *(pa.string(), pa.binary(16), pa.binary(20), pa.binary(32), pa.int64(), pa.string()),
        pa.timestamp("ms", tz="UTC"),
    )
    count = len(COLUMNS) if kind == "add" else 1
    columns = [pa.array([row[n] for row in rows], types[n]) for n in range(count)]
    pyarrow.parquet.write_table(pa.table(columns, names=COLUMNS[:count]), path)


def by_polars(kind: str, rows: Sequence[Row], path: Path) -> None:
    """Write a segment with Polars, as the document's table of writers says."""
    import pyarrow as pa

    pl = importlib.import_module("polars")  # Polars may not be installed

    types = (
        *(pa.large_string(), pa.binary(16), pa.binary(20), pa.binary(32), pa.int64()),
        *(pa.large_string(), pa.timestamp("ms", tz="UTC")),
    )
    schema = {
        "entry_id": pl.String,
        "md5": pl.Binary,
        "sha1": pl.Binary,
        "sha256": pl.Binary,
        "size": pl.Int64,
        "category": pl.String,
        "added": pl.Datetime("ms", "UTC"),
    }
    frame = pl.DataFrame(list(rows), schema=schema, orient="row")
    if kind == "withdraw":
        frame.select("entry_id").write_parquet(path)
    else:
        frame.write_parquet(path, arrow_schema=pa.schema(zip(COLUMNS, types, strict=True)))


def checksum_of(ids: Sequence[str]) -> str:
    """Return the checksum of live entries, by the section "The checksum" of the document."""
    total = 0
    for entry_id in ids:
        data = entry_id.encode()
        data += bytes(-len(data) % 8)
        h = 0
        for n in range(0, len(data), 8):
            z = h ^ int.from_bytes(data[n : n + 8], "little")
            z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 & _MASK
            z = (z ^ (z >> 27)) * 0x94D049BB133111EB & _MASK
            h = z ^ (z >> 31)
        total += h
    return f"{total & _MASK:016x}"


class IndependentProvider:
    """A repository in `public`, with the layout below the base URL that the document describes."""

    def __init__(self, public: Path, writer: Writer) -> None:
        """Make a repository without lists."""
        self.public, self._write = public, writer
        self.metadata = public / "metadata"
        self.metadata.mkdir(parents=True)
        expires = datetime.now(UTC) + timedelta(days=30)
        self._expires = expires.replace(microsecond=0)
        self.signers: dict[str, CryptoSigner] = {}
        self.root = Root(expires=self._expires, consistent_snapshot=True)
        self.targets = Targets(expires=self._expires, delegations=Delegations({}, {}))
        self.snapshot = Snapshot(expires=self._expires)
        self.timestamp = Timestamp(expires=self._expires)
        for role in ("root", "timestamp", "snapshot", "targets"):
            self.signers[role] = CryptoSigner.generate_ed25519()
            self.root.add_key(self.signers[role].public_key, role)
        self.roles: dict[str, Targets] = {}
        #: The index and the live rows of each list.
        self.indexes: dict[str, dict[str, Any]] = {}
        self.live: dict[str, dict[str, Row]] = {}
        self._put("root", self.root, self.signers["root"])

    def add_list(self, name: str, signer: CryptoSigner | None = None) -> None:
        """Delegate to the role of a new list."""
        self.signers[name] = signer or CryptoSigner.generate_ed25519()
        assert self.targets.delegations is not None and self.targets.delegations.roles is not None
        self.targets.delegations.roles[name] = DelegatedRole(
            name, [], 1, terminating=True, paths=[f"lists/{name}/*"]
        )
        self.targets.add_key(self.signers[name].public_key, name)
        self.roles[name] = Targets(expires=self._expires)
        self.indexes[name] = {"format": "hashclient-list/1", "list": name, "generation": 0}
        self.indexes[name]["segments"] = []
        self.live[name] = {}

    def change(self, name: str, withdrawn: Sequence[str] = (), added: Sequence[Row] = ()) -> None:
        """Make a new generation of a list."""
        index, live = self.indexes[name], self.live[name]
        index["generation"] += 1
        number = index["generation"]
        if withdrawn:
            rows = [live.pop(entry_id) for entry_id in withdrawn]
            index["segments"].append(self._segment(name, "withdraw", rows, number, number))
        if added:
            live.update({row[0]: row for row in added})
            index["segments"].append(self._segment(name, "add", added, number, number))
        self._sign_list(name)

    def consolidate(self, name: str) -> None:
        """Join all segments of a list: the generation, entries and checksum stay the same."""
        index = self.indexes[name]
        rows = list(self.live[name].values())
        role = self.roles[name]
        for segment in index["segments"]:
            del role.targets[f"lists/{name}/{segment['name']}"]
        index["segments"] = [self._segment(name, "add", rows, 1, index["generation"])]
        self._sign_list(name)

    def end(self, name: str) -> None:
        """End a list, whose role stays in the snapshot."""
        assert self.targets.delegations is not None and self.targets.delegations.roles is not None
        del self.targets.delegations.roles[name]
        ended = self.targets.unrecognized_fields.setdefault("hashclient-ended", [])
        ended.append(name)

    def notify(self, notice: dict[str, Any]) -> None:
        """Sign a notice with the key of the role of notices; the first notice makes the role."""
        if "notices" not in self.roles:
            self.signers["notices"] = CryptoSigner.generate_ed25519()
            key = self.signers["notices"].public_key
            self.targets.unrecognized_fields["hashclient-notices"] = {
                "keys": {key.keyid: key.to_dict()},
                "roles": [
                    {
                        "name": "notices",
                        "keyids": [key.keyid],
                        "threshold": 1,
                        "terminating": True,
                        "paths": ["notices/*"],
                    }
                ],
            }
            self.roles["notices"] = Targets(expires=self._expires)
        data = json.dumps(notice).encode()
        self._target("notices", f"notices/{notice['id']}.json", data)

    def rotate(self, role: str, signer: CryptoSigner) -> None:
        """Replace the key of a role by another key."""
        old = self.signers[role]
        above = self.root if role in self.root.roles else self.targets
        above.revoke_key(old.public_key.keyid, role)
        above.add_key(signer.public_key, role)
        self.signers[role] = signer
        if above is self.root:
            self.root.version += 1
            # The old key of the root signs as well, because clients follow the chain of roots.
            more = [old] if role == "root" else []
            self._put("root", self.root, self.signers["root"], *more)

    def publish(self) -> None:
        """Sign the next version of each role, the timestamp last."""
        for name, role in [*self.roles.items(), ("targets", self.targets)]:
            self._put(name, role, self.signers[name])
            self.snapshot.meta[f"{name}.json"] = MetaFile(role.version)
            role.version += 1
        self._put("snapshot", self.snapshot, self.signers["snapshot"])
        self.timestamp.snapshot_meta = MetaFile(self.snapshot.version)
        self.snapshot.version += 1
        data = Metadata(self.timestamp)
        data.sign(self.signers["timestamp"])
        data.to_file(str(self.metadata / "timestamp.json"))
        self.timestamp.version += 1

    def _put(self, name: str, signed: Any, *signers: CryptoSigner) -> None:
        data: Metadata[Any] = Metadata(signed)
        for signer in signers:
            data.sign(signer, append=True)
        data.to_file(str(self.metadata / f"{signed.version}.{name}.json"))

    def _segment(
        self, name: str, kind: str, rows: Sequence[Row], first: int, last: int
    ) -> dict[str, Any]:
        file_name = f"{kind}-{first}-{last}.parquet"
        path = self.public / file_name
        self._write(kind, rows, path)
        self._target(name, f"lists/{name}/{file_name}", path.read_bytes())
        path.unlink()
        return {
            "name": file_name,
            "kind": kind,
            "entries": len(rows),
            "first": first,
            "last": last,
        }

    def _sign_list(self, name: str) -> None:
        index = self.indexes[name]
        index["published_at"] = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        index["entries"] = len(self.live[name])
        index["checksum"] = checksum_of([*self.live[name]])
        self._target(name, f"lists/{name}/index.json", json.dumps(index).encode())

    def _target(self, role: str, path: str, data: bytes) -> None:
        target = TargetFile.from_data(path, data, ["sha256"])
        self.roles[role].targets[path] = target
        folder, _, name = path.rpartition("/")
        where = self.public / "targets" / folder
        where.mkdir(parents=True, exist_ok=True)
        (where / f"{target.hashes['sha256']}.{name}").write_bytes(data)
