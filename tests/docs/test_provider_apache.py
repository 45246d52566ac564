"""`server-config apache`, with the real Apache if it is installed."""

from __future__ import annotations

import contextlib
import grp
import io
import os
import pwd
import shutil
import socket
import ssl
import subprocess
import tempfile
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import pytest

from fixtures.client import csv
from fixtures.tls import Authority
from hashclient.provider.access import add_client, revoke_client, set_lists
from hashclient.provider.repository import Repository
from tests.docs.blocks import free_port
from tests.docs.test_provider_nginx import check_access_by_list, check_own_server
from tests.kit import call, wait_until

PATHS = f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin"
APACHE = shutil.which("apache2", path=PATHS) or shutil.which("httpd", path=PATHS)
#: Folders in which distributions install modules, below the parent of the program's directory.
FOLDERS = ("lib/apache2/modules", "lib64/httpd/modules", "libexec/apache2", "modules")
#: Directives around the written configuration that keep all other files in one directory.
MAIN = """
ServerRoot {directory}
ServerName localhost
PidFile apache.pid
DefaultRuntimeDir {directory}
Mutex file:{directory}
ErrorLog error.log
{user}
{modules}
Listen 127.0.0.1:{port}
{written}
"""

pytestmark = [
    pytest.mark.docs,
    pytest.mark.skipif(APACHE is None, reason="Apache is not installed"),
]


@pytest.fixture
def directory() -> Iterator[Path]:
    """A directory that every account can enter, unlike the directories of pytest."""
    with tempfile.TemporaryDirectory(prefix="hashclient-") as name:
        Path(name).chmod(0o755)
        yield Path(name)


@contextlib.contextmanager
def serving(directory: Path, written: str, port: int) -> Iterator[None]:
    """Run Apache with a configuration that was written for a site."""
    assert APACHE is not None
    above = Path(APACHE).resolve().parents[1]
    folder = next(above / name for name in FOLDERS if (above / name).is_dir())
    names = ("mpm_event", "unixd", "authz_core", "ssl", "socache_shmcb", "rewrite", "setenvif")
    modules = [
        f"LoadModule {name}_module {folder}/mod_{name}.so"
        for name in (*names, "headers", "mime", "alias")
        if (folder / f"mod_{name}.so").exists()
    ]
    user = ""
    if os.geteuid() == 0:  # as on a real machine, Apache does not run as the owner of the lists
        nobody = pwd.getpwnam("nobody")
        user = f"User nobody\nGroup {grp.getgrgid(nobody.pw_gid).gr_name}"
    (directory / "mime.types").touch()
    text = MAIN.format(
        directory=directory,
        user=user,
        modules="\n".join([*modules, f"TypesConfig {directory}/mime.types"]),
        port=port,
        written=written,
    )
    (directory / "apache.conf").write_text(text)

    def listens() -> bool:
        with contextlib.suppress(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", port), 5).close()
            return True
        return False

    words = [APACHE, "-DFOREGROUND", "-d", str(directory), "-f", "apache.conf"]
    with subprocess.Popen(words, stdin=subprocess.DEVNULL) as process:
        try:
            wait_until(listens, process.pid)
            yield
        finally:
            process.terminate()


@pytest.mark.slow
def test_apache_accepts_the_tokens_of_clients_for_their_lists(directory: Path) -> None:
    authority, port, now = Authority(directory), free_port(), datetime.now(UTC)
    made = Repository(directory / "lists", clock=lambda: now)
    made.create()
    for name in ("a", "b"):
        made.publish(name, [(f"{name}.csv", io.BytesIO(csv(range(3))))])
    year = timedelta(days=365)
    some = add_client(made, "alice", year, None, ("a",)).token
    every = add_client(made, "bob", year, None).token
    other = add_client(made, "carol", year, None).token
    set_lists(made, "carol", ("b",))
    short = add_client(made, "dave", timedelta(minutes=1), None).token
    gone = add_client(made, "erin", year, None).token
    revoke_client(made, "erin")
    server = authority.issue("server")
    written = call(
        *("provider", "server-config", "apache", made.directory, "--port", port),
        *("--server-name", "localhost", "--certificate", server.cert),
        *("--certificate-key", server.key),
    )
    assert written.code == 0, written.err
    assert not any(token.split(".")[2] in written.out for token in (some, every, other, short))
    with serving(directory, written.out, port):
        check_access_by_list(port, authority, made, some, every, other)
        with httpx.Client(
            base_url=f"https://127.0.0.1:{port}",
            verify=ssl.create_default_context(cafile=str(authority.ca)),
            trust_env=False,
        ) as browser:

            def status(*tokens: str, path: str = "metadata/timestamp.json") -> int:
                headers = [("Authorization", f"Bearer {token}") for token in tokens]
                return browser.get(path, headers=headers).status_code

            # Apache knows only the local time, so a token that soon expires is refused already.
            assert {status(token) for token in (short, gone, some.upper(), some[:-1])} == {401}
            assert status() == status(some, every) == 401
            assert status(every, path="") in {403, 404}
            assert status(every, path="targets/lists/") in {403, 404}
            newest = browser.get(
                "metadata/timestamp.json", headers={"Authorization": f"Bearer {every}"}
            )
            assert newest.headers["cache-control"] == "private, max-age=60"
        secret = directory / "token"
        secret.touch(mode=0o600)
        secret.write_text(some)
        client = ("--state-dir", directory / "state")
        url = f"https://127.0.0.1:{port}"
        words = ("--root", made.root_file, "--ca", authority.ca, "--token-file", secret)
        assert call(*client, "init", url, *words).code == 0
        fetched = call(*client, "fetch")
        assert fetched.code == 0, fetched.err
        assert "b" not in [path.name for path in (directory / "state" / "lists").iterdir()]
    own = f'MergeSlashes Off\nAlias "/mine/" "{made.public}/"\nRewriteEngine On'
    with serving(directory, written.out.replace("RewriteEngine On", own), port):
        check_own_server(port, authority, made, some, every)
