"""`serve`: runs a daemon that checks content for other programs, with clamd's protocol."""

from __future__ import annotations

import functools
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING

import click

from hashclient.cli.app import App, format_option, own_command, pass_app
from hashclient.cli.options import DURATION, declared
from hashclient.core.errors import UsageError
from hashclient.scan.values.options import ScanOptions

if TYPE_CHECKING:
    from collections.abc import Sequence

    from hashclient.daemon.options import TcpAddress
    from hashclient.system.beside import Beside


@click.command("serve")
@click.option(
    "--bind",
    "addresses",
    metavar="ADDRESS",
    multiple=True,
    help="Listen at `unix:PATH` or HOST:PORT; port 0 is any that is free. Can be given several"
    " times. [default: unix:/run/hashclient/clamd.sock; for others than root"
    " $XDG_RUNTIME_DIR/hashclient/clamd.sock]",
)
@click.option(
    "--allow-remote",
    is_flag=True,
    help="Listen also at addresses that other machines can reach; the protocol has neither"
    " encryption nor credentials.",
)
@click.option(
    "--socket-mode",
    metavar="OCTAL",
    default="660",
    show_default=True,
    help="The mode of a socket in the file system: who may connect.",
)
@click.option("--jobs", metavar="N", type=click.IntRange(1, 256), help="Processes. [default: CPUs]")
@click.option(
    "--no-verdict",
    type=click.Choice(["found", "error", "ok"]),
    default="found",
    show_default=True,
    help="The answer for input that could not be checked: a match with a name that says so, an"
    " error, or clean.",
)
@click.option(
    "--paths",
    type=click.Choice(["own", "any"]),
    default="own",
    show_default=True,
    help="The paths that clients may ask about, other than root and the user of the daemon: those"
    " that they could read themselves, or any that the daemon may read.",
)
@click.option(
    "--max-stream-mib",
    metavar="N",
    type=click.IntRange(1, 1 << 24),
    default=16_384,
    show_default=True,
    help="The longest stream; a longer stream gets no verdict.",
)
@click.option(
    "--max-connections",
    metavar="N",
    type=click.IntRange(1, 1 << 16),
    default=4096,
    show_default=True,
    help="The most connections of one process; further connections are closed at once.",
)
@click.option(
    "--user-share",
    metavar="PERCENT",
    type=click.IntRange(1, 100),
    default=50,
    show_default=True,
    help="The most that one user, or one address, may have of all connections, open files, threads"
    " and spool. Root and the user of the daemon may have all.",
)
@click.option(
    "--command-time",
    "command_s",
    metavar="TIME",
    type=DURATION,
    default="30",
    show_default=True,
    help="The longest time in which a command must come; its stream is not counted.",
)
@click.option(
    "--min-rate-kib",
    metavar="N",
    type=click.IntRange(0, 1 << 20),
    default=1,
    show_default=True,
    help="Close a stream that comes more slowly, in KiB a second, if others wait for a connection.",
)
@click.option(
    "--idle",
    "idle_s",
    metavar="TIME",
    type=DURATION,
    default="120",
    show_default=True,
    help="Close a connection that was silent for this time.",
)
@click.option(
    "--stream-time",
    "stream_s",
    metavar="TIME",
    type=DURATION,
    default="1h",
    show_default=True,
    help="The longest time for one stream.",
)
@click.option(
    "--metrics",
    metavar="HOST:PORT",
    help="Serve metrics for Prometheus at http://HOST:PORT/metrics.",
)
@click.option(
    "--fetch-every",
    metavar="TIME",
    type=DURATION,
    help="Run `fetch` at this interval, such as 1h.",
)
@click.option(
    "--no-members",
    is_flag=True,
    help="Do not open archives and mail: check each object as a whole.",
)
@click.option(
    "--spool-mib",
    metavar="N",
    type=click.IntRange(0, 1 << 24),
    default=1024,
    show_default=True,
    help="Disk of each process for streams that may be archives or mail, in the state directory;"
    " a stream without room has no verdict.",
)
@click.option("--no-actions", is_flag=True, help="Record matches only, whatever the policy says.")
@declared(ScanOptions, "exceptions")
@format_option("text", "json", help="How to print the addresses when the daemon is ready.")
@pass_app
def command(
    app: App,
    addresses: tuple[str, ...],
    allow_remote: bool,
    socket_mode: str,
    jobs: int | None,
    no_verdict: str,
    paths: str,
    max_stream_mib: int,
    max_connections: int,
    user_share: int,
    command_s: float,
    min_rate_kib: int,
    idle_s: float,
    stream_s: float,
    metrics: str | None,
    fetch_every: float | None,
    no_members: bool,
    spool_mib: int,
    no_actions: bool,
    exceptions: bool,
    output_format: str,
) -> None:
    """Check content for programs that speak clamd's protocol.

    Mail gateways, proxies, file servers and upload sites that can use ClamAV's daemon can use
    `serve`: it speaks the same protocol. The answer to a match is `stream: Hashclient.LIST.ENTRY
    FOUND`; the match is recorded, logged and acted upon before the answer is sent. Content that
    could not be checked is never answered as clean, unless --no-verdict changes this.
    The daemon notices new generations of lists by itself; SIGHUP or RELOAD makes it look at once.

    \b
      hashclient serve --fetch-every 1h
      hashclient serve --bind 127.0.0.1:3310 --metrics 127.0.0.1:9310

    Exit codes: 0 stopped by SIGTERM or SIGINT, 2 an address is wrong, or other users may change the
    path of a socket, 8 no list can be used, or the daemon cannot listen; all are in `hashclient
    --help`.
    """
    from hashclient.daemon.daemon import Daemon
    from hashclient.daemon.openers import opening
    from hashclient.daemon.options import NoVerdict, Options, Paths, kept_bytes, parse_address
    from hashclient.scan.executors.here import default_jobs

    binds = [parse_address(text) for text in addresses or [f"unix:{_default_socket()}"]]
    asked = None if metrics is None else _metrics_address(metrics)
    _refuse_remote([*binds, asked], allow_remote)
    mode = _mode_of(socket_mode)
    processes = jobs or default_jobs()
    daemon = Daemon(
        app.session,
        binds,
        Options(
            NoVerdict(no_verdict),
            Paths(paths),
            max_stream_mib << 20,
            idle_s=idle_s,
            command_s=command_s,
            stream_s=stream_s,
            min_rate=min_rate_kib << 10,
            max_connections=max_connections,
            user_share=user_share,
            kept_bytes=kept_bytes(processes),
            act=not no_actions,
            exceptions=exceptions,
            containers=None if no_members else opening(app.settings.config, stream_s, app.warn),
            spool_bytes=spool_mib << 20,
        ),
        jobs=processes,
        metrics=asked,
        beside=_beside(app, fetch_every),
        mode=mode,
        warn=app.warn,
    )
    daemon.run(functools.partial(_show_ready, app, output_format))


def _show_ready(app: App, output_format: str, names: list[str], warnings: list[str]) -> None:
    document = {"ready": True, "addresses": names, "warnings": warnings}
    app.show(output_format, document, (f"listening at {name}" for name in names))


def _mode_of(text: str) -> int:
    if re.fullmatch("[0-7]{3,4}", text) is None:
        raise UsageError(f"not a mode in octal: {text}", hint="such as 660")
    return int(text, 8)


def _beside(app: App, fetch_every: float | None) -> list[Beside]:
    """Return the commands that run beside the daemon: `alerts send` and `fetch`."""
    from hashclient.cli.alerts import alerts_beside
    from hashclient.system.beside import Beside

    fetch = [] if fetch_every is None else [Beside(own_command(app, "fetch"), fetch_every)]
    return [*alerts_beside(app), *fetch]


def _metrics_address(text: str) -> TcpAddress:
    from hashclient.daemon.options import TcpAddress, parse_address

    address = parse_address(text)
    if not isinstance(address, TcpAddress):
        raise UsageError(f"metrics need HOST:PORT, not {text}")
    return address


def _refuse_remote(addresses: Sequence[object], allow_remote: bool) -> None:
    """Refuse addresses that other machines can reach, unless `allow_remote` is true."""
    from hashclient.daemon.options import TcpAddress

    for address in addresses:
        if isinstance(address, TcpAddress) and not (address.is_loopback or allow_remote):
            raise UsageError(
                f"other machines could reach {address}",
                hint="the protocol has neither encryption nor credentials; --allow-remote if the"
                " network is closed",
            )


def _default_socket() -> Path:
    runtime = os.environ.get("XDG_RUNTIME_DIR", "")
    if os.geteuid() != 0 and runtime.startswith("/"):
        return Path(runtime, "hashclient/clamd.sock")
    return Path("/run/hashclient/clamd.sock")
