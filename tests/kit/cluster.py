"""The one Dask cluster that tests share, whose workers have their own state directory."""

from __future__ import annotations

import contextlib
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from fixtures.cluster import Cluster, started
from hashclient.config.settings import Config, Settings
from hashclient.config.tables import ClusterConfig
from hashclient.core.version import __version__
from hashclient.index.open_lists import OpenLists, open_lists
from hashclient.scan.cluster.address import Scheduler, parse_executor
from hashclient.scan.cluster.connection import Connection, connected
from hashclient.scan.cluster.messages import PROTOCOL, Spec, pins_of
from tests.kit import csv_of, make_state

#: The contents on the list of the cluster, by entry.
LISTED = {f"e-{n}": f"content {n}".encode() for n in range(6)}
WORKERS = 3


@dataclass(frozen=True, slots=True)
class SharedCluster:
    """A cluster, and the state directory of its workers."""

    cluster: Cluster
    state: Path

    def whole(self) -> SharedCluster:
        """Wait until all workers run, and return the cluster."""
        self.cluster.wait(WORKERS)
        return self

    @property
    def url(self) -> str:
        """The address of the scheduler."""
        return self.cluster.url

    def client_state(self, directory: Path) -> Path:
        """Return a state directory of a client with the same lists and key."""
        return Path(shutil.copytree(self.state, directory / f"client-{uuid.uuid4().hex[:8]}"))

    def lists(self) -> OpenLists:
        """Return the opened lists."""
        settings = Settings(self.state, self.state / "c", None, Config())
        return open_lists(settings, {}, datetime.now(UTC))

    def spec(self, **changes: object) -> Spec:
        """Return the description of a scan by a client that has the lists of the workers."""
        lists = self.lists()
        values = {"base": os.fsencode(Path.cwd()), "run": uuid.uuid4().hex, **changes}
        return Spec(
            protocol=PROTOCOL,
            version=__version__,
            key_id=lists.sealer.key_id,
            lists=pins_of(lists),
            **values,  # type: ignore[arg-type]
        )

    def connect(self) -> AbstractContextManager[Connection]:
        """Connect to the cluster."""
        where = parse_executor(self.url, ClusterConfig())
        assert isinstance(where, Scheduler)
        return connected(where, {})


@contextlib.contextmanager
def shared_cluster(directory: Path) -> Iterator[SharedCluster]:
    """Start a cluster with lists."""
    # The second list has no sizes, so every file is read.
    unsized = csv_of({"u-0": b"content 50"}, sized=False)
    state = make_state(directory, {"base": csv_of(LISTED), "unsized": unsized})
    with started(WORKERS, {"HASHCLIENT_STATE_DIR": str(state)}) as cluster:
        yield SharedCluster(cluster, state)
