"""The configuration of nginx in docs/provider.md, with the real nginx and the real command."""

from __future__ import annotations

import contextlib
import grp
import io
import json
import os
import pwd
import re
import shutil
import socket
import ssl
import subprocess
import tempfile
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest

from fixtures.client import csv
from fixtures.tls import Authority
from hashclient.provider.access import (
    add_client,
    all_clients,
    revoke_client,
    rotate_client,
    set_lists,
)
from hashclient.provider.clients import Clients
from hashclient.provider.repository import Repository
from hashclient.provider.serverconfig import MANY, Site, nginx_clients, nginx_server
from tests.docs.blocks import DOCS, free_port, marked_blocks
from tests.kit import Run, call, wait_until

NGINX = shutil.which("nginx", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")
SITE = Site(
    "lists.example.org",
    Path("/srv/lists/public"),
    Path("/etc/ssl/lists/server.pem"),
    Path("/etc/ssl/lists/server.key"),
)
TOKEN = "5d0c9e1f6a7b4c38-alice-example"
#: Directives around the documented configuration that keep all other files in one directory.
MAIN = """
daemon off; master_process on; worker_processes 1; pid nginx.pid; error_log error.log; {user}
events {{ worker_connections 64; }}
http {{
    log_format connections '$connection $request_uri $status $ssl_protocol $server_protocol';
    access_log access.log connections;
    client_body_temp_path body; proxy_temp_path proxy; fastcgi_temp_path fastcgi;
    uwsgi_temp_path uwsgi; scgi_temp_path scgi;
    {documented}
}}
"""

pytestmark = [
    pytest.mark.docs,
    pytest.mark.skipif(NGINX is None, reason="nginx is not installed"),
]


class Nginx:
    """nginx with a repository that was made under a umask of 077, and a client's state."""

    def __init__(
        self, directory: Path, documented: str, repository: Repository | None = None
    ) -> None:
        """Publish, and write the configuration with the paths and the port of a test.

        If a `repository` is given, this repository is served instead.
        """
        self.directory = directory
        self.authority = Authority(directory)
        server, self.port = self.authority.issue("server"), free_port()
        umask = os.umask(0o077)
        try:
            clock = lambda: datetime.now(UTC)  # noqa: E731
            self.repository = Repository(directory / "srv" / "lists", clock=clock)
            self.repository.create()
            with tempfile.TemporaryFile() as stream:
                stream.write(csv(range(5)))
                stream.seek(0)
                self.repository.publish("baseline", [("baseline.csv", stream)])
            self.repository = repository or self.repository
        finally:
            os.umask(umask)
        for path, here in {
            "listen 443 ssl": f"listen 127.0.0.1:{self.port} ssl",
            "/etc/ssl/lists/server.pem": server.cert,
            "/etc/ssl/lists/server.key": server.key,
            "/etc/ssl/lists/clients-ca.pem": self.authority.ca,
            "/srv/lists/public": self.repository.public,
        }.items():
            documented = documented.replace(path, str(here))
        assert "/etc/" not in documented
        user = ""
        if os.geteuid() == 0:  # as on a real machine, nginx does not run as the owner of the lists
            nobody = pwd.getpwnam("nobody")
            user = f"user nobody {grp.getgrgid(nobody.pw_gid).gr_name};"
        text = MAIN.format(user=user, documented=documented)
        (directory / "nginx.conf").write_text(text)

    @contextlib.contextmanager
    def serve(self) -> Iterator[Nginx]:
        """Run nginx."""
        assert NGINX is not None
        with subprocess.Popen(
            [NGINX, "-p", self.directory, "-c", "nginx.conf", "-e", "error.log"],
            stdin=subprocess.DEVNULL,
        ) as process:
            try:
                wait_until(self._listens, process.pid)
                yield self
            finally:
                process.terminate()

    def _listens(self) -> bool:
        with contextlib.suppress(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", self.port), 5).close()
            return True
        return False

    def call(self, *args: object) -> Run:
        """Run the command on the client's state directory."""
        return call("--state-dir", self.directory / "state", *args)

    def init(self, *options: object) -> Run:
        """Pin the provider that nginx serves."""
        url = f"https://127.0.0.1:{self.port}"
        root = self.repository.root_file
        return self.call("init", url, "--root", root, "--ca", self.authority.ca, *options)

    def connections(self) -> list[list[str]]:
        """Return the lines of nginx's log: connection, address, status, TLS, HTTP."""
        return [line.split() for line in (self.directory / "access.log").read_text().splitlines()]

    def statuses(self) -> list[dict[str, Any]]:
        """Return the client's status of its lists."""
        found: dict[str, Any] = json.loads(self.call("status", "--format", "json").out)
        return [{**entry, "list": entry["name"]} for entry in found["lists"]]

    def secret(self, text: str) -> Path:
        """Write a token into a file."""
        path = self.directory / f"token-{len(text)}"
        path.touch(mode=0o600)
        path.write_text(text)
        return path


@pytest.fixture
def directory() -> Iterator[Path]:
    """A directory that every account can enter, unlike the directories of pytest."""
    with tempfile.TemporaryDirectory(prefix="hashclient-") as name:
        Path(name).chmod(0o755)
        yield Path(name)


def documented(name: str) -> str:
    (block,) = marked_blocks(DOCS / "provider.md", name)
    return block


def test_tokens(directory: Path) -> None:
    with Nginx(directory, documented("nginx")).serve() as nginx:
        refused = nginx.init()
        assert (refused.code, "401" in refused.err) == (5, True)
        refused = nginx.init("--token-file", nginx.secret(TOKEN.upper()))
        assert (refused.code, "401" in refused.err) == (5, True)
        assert nginx.init("--token-file", nginx.secret(f"{TOKEN}\n")).code == 0
        fetched = nginx.call("fetch")
        assert fetched.code == 0, fetched.err
        before = len(nginx.connections())
        assert nginx.call("fetch").code == 0
        asked = nginx.connections()[before:]
        assert [line[1:] for line in asked] == [
            ["/metadata/2.root.json", "404", "TLSv1.3", "HTTP/1.1"],
            ["/metadata/timestamp.json", "200", "TLSv1.3", "HTTP/1.1"],
        ]
        assert asked[0][0] == asked[1][0], "one connection"
        check_answers(nginx)


def check_answers(nginx: Nginx, token: str = TOKEN) -> None:
    """Check the answers that docs/format.md requires of a server."""
    (segment,) = nginx.repository.public.glob("targets/lists/baseline/*.parquet")
    path = segment.relative_to(nginx.repository.public).as_posix()
    with httpx.Client(
        base_url=f"https://127.0.0.1:{nginx.port}",
        verify=ssl.create_default_context(cafile=str(nginx.authority.ca)),
        headers={"Authorization": f"Bearer {token}", "Accept-Encoding": "gzip, br"},
        trust_env=False,
    ) as browser:
        whole = browser.get(path)
        assert (whole.status_code, whole.content) == (200, segment.read_bytes())
        assert re.fullmatch(r'"[^"]+"', whole.headers["etag"])
        assert whole.headers["accept-ranges"] == "bytes"
        assert "content-encoding" not in whole.headers
        assert whole.headers["cache-control"] == "private, max-age=604800"
        rest = {"Range": "bytes=10-", "If-Range": whole.headers["etag"]}
        part = browser.get(path, headers=rest)
        assert (part.status_code, part.content) == (206, segment.read_bytes()[10:])
        newest = browser.get("metadata/timestamp.json")
        assert newest.headers["cache-control"] == "private, max-age=60"
        for hidden in ("", "metadata/", "targets/lists", "../keys", "..%2froot.json"):
            assert browser.get(hidden).status_code in {301, 400, 403, 404}, hidden


def rendered(repository: Repository, now: datetime) -> str:
    """Return the output of `server-config nginx`, with the documented paths."""
    made = call(
        *("provider", "server-config", "nginx", repository.directory),
        *("--server-name", "lists.example.org", "--public", "/srv/lists/public"),
    )
    assert made.code == 0, made.err
    begin = made.out.index("server {")
    # The configuration has the tokens that are valid at `now`. Later, nginx itself has to refuse
    # the tokens that expire.
    return nginx_clients(all_clients(repository), now) + made.out[begin:]


def test_nginx_accepts_the_tokens_of_clients(directory: Path) -> None:
    """The configuration has tokens as hashes, some of them expired or revoked."""
    now = datetime.now(UTC)
    moment = now
    repository = Repository(directory / "clients", clock=lambda: moment)
    repository.create()
    year, day = timedelta(days=365), timedelta(days=1)
    alice = add_client(repository, "alice", year, None).token
    second = rotate_client(repository, "alice", year, day, None).token
    carol = add_client(repository, "carol", year, None).token
    revoke_client(repository, "carol")
    moment = now - 2 * day
    bob = add_client(repository, "bob", day, None).token
    text = rendered(repository, moment)
    for token in (alice, second, bob, carol):
        assert token.split(".")[2] not in text
    with Nginx(directory, text).serve() as nginx:
        mixed = f"{alice[:21]}{second[21:]}"
        wrong = [bob, carol, alice.upper(), f"{alice}=", alice[:-1], mixed, "none"]
        with httpx.Client(
            base_url=f"https://127.0.0.1:{nginx.port}",
            verify=ssl.create_default_context(cafile=str(nginx.authority.ca)),
            trust_env=False,
        ) as browser:

            def status(*headers: tuple[str, str]) -> int:
                return browser.get("metadata/timestamp.json", headers=headers).status_code

            def of(token: str) -> tuple[str, str]:
                return "Authorization", f"Bearer {token}"

            assert [status(of(token)) for token in (alice, second)] == [200, 200]
            assert [status(of(token)) for token in wrong] == [401] * len(wrong)
            assert status() == 401
            assert status(("Authorization", f"bearer {alice}")) == 401
            assert status(of(alice), of(bob)) in {400, 401}
        assert nginx.init("--token-file", nginx.secret(f"{alice}\n")).code == 0
        fetched = nginx.call("fetch")
        assert fetched.code == 0, fetched.err
        check_answers(nginx, alice)


def test_a_token_for_list_a_gets_403_for_list_b(directory: Path) -> None:
    clock = lambda: datetime.now(UTC)  # noqa: E731
    made = Repository(directory / "clients", clock=clock)
    made.create()
    for name in ("a", "b"):
        made.publish(name, [(f"{name}.csv", io.BytesIO(csv(range(3))))])
    year = timedelta(days=365)
    some = add_client(made, "alice", year, None, ("a",)).token
    every = add_client(made, "bob", year, None).token
    both = add_client(made, "carol", year, None, ("a", "b")).token
    set_lists(made, "carol", ("b",))
    with Nginx(directory, rendered(made, datetime.now(UTC)), made).serve() as nginx:
        check_access_by_list(nginx.port, nginx.authority, made, some, every, both)
        assert nginx.init("--token-file", nginx.secret(some)).code == 0
        for _ in range(2):
            fetched = nginx.call("fetch")
            assert fetched.code == 0, fetched.err
        assert [line["list"] for line in nginx.statuses()] == ["a"]


def check_access_by_list(
    port: int, authority: Authority, repository: Repository, some: str, every: str, other: str
) -> None:
    """Request all published files with tokens for list a, for all lists, and for list b."""
    public = repository.public
    paths = {path.relative_to(public).as_posix() for path in public.rglob("*") if path.is_file()}
    of = {name: {p for p in paths if f"/{name}/" in p or f".{name}.json" in p} for name in "ab"}
    assert all(len(found) == 3 for found in of.values())
    with httpx.Client(
        base_url=f"https://127.0.0.1:{port}",
        verify=ssl.create_default_context(cafile=str(authority.ca)),
        trust_env=False,
    ) as browser:

        def statuses(token: str, asked: set[str]) -> set[int]:
            headers = {"Authorization": f"Bearer {token}"}
            return {browser.get(path, headers=headers).status_code for path in asked}

        assert statuses(some, paths - of["b"]) == {200}
        assert statuses(some, of["b"]) == {403}
        assert statuses(other, of["a"]) == {403}
        assert statuses(other, paths - of["a"]) == statuses(every, paths) == {200}
        assert statuses("none", paths) == {401}
        segment = next(path for path in sorted(of["b"]) if path.endswith("parquet"))
        name = segment.rpartition("/")[2]
        for path in (
            f"targets/lists/%62/{name}",
            f"targets//lists//b/{name}",
            f"targets/lists/a/../b/{name}",
            f"targets/lists/./b/{name}",
            f"targets/lists/a/%2e%2e/b/{name}",
            "metadata/1%2eb.json",
            "metadata/./1.b.json",
        ):
            assert statuses(some, {path}) <= {400, 403, 404}, path


def test_a_server_of_ones_own_gives_a_token_for_list_a_nothing_of_list_b(directory: Path) -> None:
    """The server does not merge double slashes, and serves the files below a folder as well."""
    made = Repository(directory / "clients", clock=lambda: datetime.now(UTC))
    made.create()
    for name in ("a", "b"):
        made.publish(name, [(f"{name}.csv", io.BytesIO(csv(range(3))))])
    some = add_client(made, "alice", timedelta(days=365), None, ("a",)).token
    every = add_client(made, "bob", timedelta(days=365), None).token
    own = "merge_slashes off; location /mine/ { alias /srv/lists/public/; }\n    gzip "
    text = rendered(made, datetime.now(UTC)).replace("gzip ", own)
    with Nginx(directory, text, made).serve() as nginx:
        check_own_server(nginx.port, nginx.authority, made, some, every)


def check_own_server(
    port: int, authority: Authority, repository: Repository, some: str, every: str
) -> None:
    """Test a server that does not merge double slashes and also serves the files below /mine/."""
    url, context = f"https://127.0.0.1:{port}", ssl.create_default_context(cafile=authority.ca)
    (segment,) = repository.public.glob("targets/lists/b/*.parquet")
    with httpx.Client(verify=context, trust_env=False) as browser:

        def statuses(token: str, path: str) -> list[int]:
            headers = {"Authorization": f"Bearer {token}"}
            asked = (f"{url}/{path}", f"{url}//{path}", f"{url}/{path.replace('/', '//')}")
            return [browser.get(one, headers=headers).status_code for one in asked]

        for path in (f"targets/lists/b/{segment.name}", "metadata/1.b.json"):
            for one in (path, f"mine/{path}"):
                assert 200 in statuses(every, one)
                assert statuses(some, one) == [403] * 3
        for path in ("metadata/timestamp.json", "metadata/1.a.json"):
            assert statuses(some, path) == [200] * 3


@pytest.mark.parametrize("count", [MANY, 3000])
def test_many_clients_are_what_nginx_understands(directory: Path, count: int) -> None:
    now = datetime.now(UTC)
    repository = Repository(directory / "clients", clock=lambda: now)
    tokens = Clients(directory / "clients.json", lambda: now)
    clients = tuple(
        tokens.with_added(f"client-{number:04}", timedelta(days=1))[1][0] for number in range(count)
    )
    repository.create()
    text = nginx_clients(clients, now) + nginx_server(SITE)
    nginx = Nginx(directory, text)
    assert NGINX is not None
    done = subprocess.run(
        [NGINX, "-t", "-p", nginx.directory, "-c", "nginx.conf", "-e", "error.log"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "warn" not in done.stderr


def test_client_certificates(directory: Path) -> None:
    text = documented("nginx")
    line = '    if ($lists_client = "") { return 401; }\n'
    assert line in text
    text = text.replace(line, documented("nginx-certificates"))
    with Nginx(directory, text).serve() as nginx:
        refused = nginx.init()
        assert (refused.code, "403" in refused.err) == (5, True)
        (directory / "strangers").mkdir()
        stranger = Authority(directory / "strangers").issue("stranger")
        refused = nginx.init("--client-cert", stranger.cert, "--client-key", stranger.key)
        assert (refused.code, "403" in refused.err) == (5, True)
        known = nginx.authority.issue("alice")
        pinned = nginx.init("--client-cert", known.cert, "--client-key", known.key)
        assert pinned.code == 0, pinned.err
        assert nginx.call("fetch").code == 0


def test_client_certificates_as_nginx_refuses_them_by_itself(directory: Path) -> None:
    """The configuration lacks the line that changes nginx's answer to 403."""
    text = documented("nginx").replace(
        '    if ($lists_client = "") { return 401; }\n', documented("nginx-certificates")
    )
    text = re.sub(r"^ +error_page 495.*\n", "", text, flags=re.MULTILINE)
    with Nginx(directory, text).serve() as nginx:
        refused = nginx.init()
        assert refused.code == 5
        assert "the provider requires a client certificate: https://127.0.0.1:" in refused.err
        assert "hint: check client_cert and client_key" in refused.err
        (directory / "strangers").mkdir()
        stranger = Authority(directory / "strangers").issue("stranger")
        refused = nginx.init("--client-cert", stranger.cert, "--client-key", stranger.key)
        assert refused.code == 5
        assert "the provider refuses the client certificate" in refused.err
