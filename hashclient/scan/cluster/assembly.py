"""Make the executor of a scan on a cluster from settings, lists and an address."""

from __future__ import annotations

import functools
import os
import secrets
from collections.abc import Callable

from hashclient.containers import meaning
from hashclient.containers.limits import Options
from hashclient.core.errors import UsageError
from hashclient.core.version import __version__
from hashclient.index.open_lists import OpenLists
from hashclient.scan.cache.memory import InventoryPlace
from hashclient.scan.cluster.address import LocalCluster, Scheduler
from hashclient.scan.cluster.connection import connected, environment_of
from hashclient.scan.cluster.executor import Dask
from hashclient.scan.cluster.messages import PROTOCOL, Spec, pins_of
from hashclient.scan.values.options import ScanOptions
from hashclient.session import Session
from hashclient.system.identity import boot_id, mount_namespace


def on_cluster(
    where: LocalCluster | Scheduler,
    options: ScanOptions,
    session: Session,
    lists: OpenLists,
    *,
    inventory: InventoryPlace | None,
    containers: Options | None,
    on_notice: Callable[[str], None],
    objects: bool,
) -> Dask:
    """Return the executor of a scan at `where`, before it connects or starts a process.

    Files that are unchanged since their record in the client's `inventory` are not read. If
    `objects` are read as well, the connection is kept after the files are checked, until `close`.

    Raises:
        UsageError: the current directory does not exist any more, or the user asked for a number of
            processes.
    """
    if options.jobs is not None:
        raise UsageError(
            "the workers of a cluster are as many as were started",
            hint="leave out the number of jobs, or let processes of this machine check the files",
        )
    settings = session.settings
    try:
        base = os.fsencode(os.getcwd())  # noqa: PTH109 - the path may be any bytes
    except OSError as error:
        raise UsageError("the current directory is gone", hint="change to another one") from error
    spec = Spec(
        PROTOCOL,
        __version__,
        secrets.token_hex(8),
        lists.sealer.key_id,
        pins_of(lists),
        base,
        exclude=tuple(map(os.fsencode, options.exclude)),
        keep_clean=options.show_clean,
        sparse=options.sparse,
        all_digests=options.all_digests,
        learn=options.learn,
        reread_days=settings.config.inventory.reread_days,
        containers=containers,
        boot=boot_id(),
        namespace=mount_namespace(),
        objects=objects,
        also=lists.also,
        reads=0 if containers is None else meaning.READS,
    )
    environment = environment_of(settings.state_dir, settings.config_path, settings.seal_key_file)
    return Dask(
        functools.partial(connected, where, environment),
        spec,
        inventory=inventory,
        on_notice=on_notice,
    )
