"""Every kind of access to a provider, by the real command: `init`, `fetch`, and expired access.

All output and all files are searched for the secrets, see `HostileSite.run`.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from fixtures import hostile
from fixtures.hostile import Connection, HostileServer, Request, reply
from fixtures.tls import Authority, server_context
from tests.hostile_site import TOKEN, HostileSite

PASSWORD = "pass-7f3a9c:with-colon"
CLIENT_SECRET = "cl!ent/s3cret+7f3a9c"


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture
def site(tmp_path: Path, authority: Authority) -> Iterator[HostileSite]:
    with HostileSite(tmp_path, authority) as made:
        yield made


def way_in(site: HostileSite, *options: object, env: Mapping[str, str] | None = None) -> None:
    """Check that `init` and `fetch` work with a credential, and that its refusal is reported."""
    for arguments in (site.init_arguments(*options, "--attempts", 2), ["fetch"]):
        result = site.run(*arguments, env=env)
        assert result.code == 0, result.err
    assert all(r.header("authorization") == site.authorization for r in site.server.requests)
    site.check_scans()
    site.authorization = "Bearer of another"
    kept = site.kept()
    refused = site.run("fetch", env=env)
    assert refused.code == 5 and "refuses the credential" in refused.err
    assert "hint: " in refused.err
    assert site.kept() == kept


@pytest.mark.slow
def test_a_token_in_a_file(site: HostileSite) -> None:
    way_in(site, "--token-file", site.secret_file(TOKEN))


@pytest.mark.slow
def test_a_token_in_a_variable(site: HostileSite) -> None:
    way_in(site, "--token-env", "LIST_TOKEN", env={"LIST_TOKEN": TOKEN})


@pytest.mark.slow
def test_a_token_in_a_systemd_credential(site: HostileSite) -> None:
    folder = site.secret_file(TOKEN, "list.token").parent
    way_in(site, "--token-credential", "list.token", env={"CREDENTIALS_DIRECTORY": str(folder)})


@pytest.mark.slow
def test_a_user_and_a_password(site: HostileSite) -> None:
    encoded = base64.b64encode(f"me:{PASSWORD}".encode()).decode()
    site.authorization = f"Basic {encoded}"
    way_in(site, "--basic-file", site.secret_file(f"me:{PASSWORD}"))


@pytest.mark.slow
def test_the_systems_trust_store(site: HostileSite) -> None:
    token = site.secret_file(TOKEN)
    arguments = ["init", site.server.origin, "--root", site.root, "--token-file", token]
    assert site.run(*arguments).code == 4
    env = {"SSL_CERT_FILE": str(site.authority.ca)}
    assert site.run(*arguments, env=env).code == 0
    assert site.run("fetch", env=env).code == 0


@pytest.mark.slow
@pytest.mark.parametrize("files", ["two", "one"])
def test_a_client_certificate(tmp_path: Path, authority: Authority, files: str) -> None:
    issued = authority.issue("client")
    key = issued.key.read_text()
    options: list[object] = ["--client-cert", issued.cert, "--client-key", issued.key]
    if files == "one":
        both = tmp_path / "both.pem"
        both.touch(mode=0o600)
        both.write_text(issued.cert.read_text() + key)
        options = ["--client-cert", both]
    context = server_context(authority.issue("strict"), authority.ca)
    with HostileSite(tmp_path, authority, context) as site:
        site.authorization = None
        site.secrets.add(key.splitlines()[1])
        for arguments in (site.init_arguments(*options), ["fetch"]):
            assert site.run(*arguments).code == 0
        other = server_context(authority.issue("other"), Authority(tmp_path, "a new authority").ca)
        site.server._context = other
        refused = site.run("fetch")
        assert refused.code == 5 and "client certificate" in refused.err
        site.check_scans()


class Login:
    """A token endpoint that issues one token after the other."""

    def __init__(self, site: HostileSite, server: HostileServer) -> None:
        self.site = site
        self.given = 0
        self.honest = True
        server.on("/token", self.give)

    def give(self, connection: Connection, request: Request) -> bool:
        raw = base64.b64decode((request.header("authorization") or "").removeprefix("Basic "))
        if not self.honest or raw != b"hc-17:cl%21ent%2Fs3cret%2B7f3a9c":
            document = {"error": "invalid_client", "error_description": CLIENT_SECRET}
            return reply(json.dumps(document).encode(), status=401)(connection, request)
        self.given += 1
        token = f"acc3ss-t0ken-7f3a9c-{self.given}"
        self.site.secrets.add(token)
        self.site.authorization = f"Bearer {token}"
        answer = {"access_token": token, "token_type": "Bearer", "expires_in": 3600}
        return reply(json.dumps(answer).encode())(connection, request)


@pytest.fixture
def login(site: HostileSite, authority: Authority) -> Iterator[tuple[Login, list[object]]]:
    with HostileServer(server_context(authority.issue("login"))) as server:
        options: list[object] = [
            "--oauth-token-url",
            f"{server.origin}/token",
            "--oauth-client-id",
            "hc-17",
        ]
        yield Login(site, server), options


@pytest.mark.slow
@pytest.mark.parametrize("place", ["file", "variable"])
def test_oauth_client_credentials(
    site: HostileSite, login: tuple[Login, list[object]], place: str
) -> None:
    endpoint, options = login
    site.secrets.add(CLIENT_SECRET)
    env = {"OAUTH_SECRET": CLIENT_SECRET}
    if place == "file":
        options += ["--oauth-secret-file", site.secret_file(CLIENT_SECRET)]
    else:
        options += ["--oauth-secret-env", "OAUTH_SECRET"]
    for arguments in (site.init_arguments(*options), ["fetch"]):
        result = site.run(*arguments, env=env)
        assert result.code == 0, result.err
    # Each run gets a new token, because a token is kept only in memory.
    assert endpoint.given == 2
    endpoint.honest = False
    refused = site.run("fetch", env=env)
    assert refused.code == 5 and "/token" in refused.err
    site.check_scans()


@pytest.mark.slow
def test_an_oauth_token_that_is_refused_is_renewed_once(
    site: HostileSite, login: tuple[Login, list[object]]
) -> None:
    endpoint, options = login
    options += ["--oauth-secret-file", site.secret_file(CLIENT_SECRET)]
    assert site.run(*site.init_arguments(*options)).code == 0
    revoked = reply(status=401)
    timestamp = reply(site.simulator.files["metadata/timestamp.json"])
    site.server.on("/metadata/timestamp.json", revoked, timestamp)
    assert site.run("fetch").code == 0
    assert endpoint.given == 3
    site.server.on("/metadata/timestamp.json", revoked)
    assert site.run("fetch").code == 5
    assert endpoint.given == 5


@pytest.mark.slow
def test_an_http_proxy_with_a_password(site: HostileSite) -> None:
    encoded = base64.b64encode(f"me:{PASSWORD}".encode()).decode()

    def guarded(connection: Connection, request: Request) -> bool:
        if request.header("proxy-authorization") != f"Basic {encoded}":
            return reply(status=407)(connection, request)
        return hostile.tunnel(site.server.port)(connection, request)

    with HostileServer() as proxy:
        proxy.on(f"127.0.0.1:{site.server.port}", guarded)
        options = ["--token-file", site.secret_file(TOKEN, "token"), "--proxy", proxy.origin]
        assert site.run(*site.init_arguments(*options)).code == 5
        options += ["--proxy-basic-file", site.secret_file(f"me:{PASSWORD}", "proxy")]
        for arguments in (site.init_arguments(*options), ["fetch"]):
            assert site.run(*arguments).code == 0
        proxy.on(f"127.0.0.1:{site.server.port}", reply(status=407))
        refused = site.run("fetch")
        assert refused.code == 5 and "proxy refuses the credential" in refused.err
        site.check_scans()


@pytest.mark.slow
def test_a_socks_proxy(site: HostileSite) -> None:
    with HostileServer(greeting=hostile.socks5(site.server.port)) as proxy:
        address = f"socks5://127.0.0.1:{proxy.port}"
        way_in(site, "--token-file", site.secret_file(TOKEN), "--proxy", address)
        assert proxy.connections > 0


@pytest.mark.slow
def test_the_proxy_of_the_environment_is_used_only_on_request(site: HostileSite) -> None:
    token = site.secret_file(TOKEN)
    with HostileServer() as proxy:
        proxy.on(f"127.0.0.1:{site.server.port}", hostile.tunnel(site.server.port))
        env = {"https_proxy": proxy.origin, "HTTPS_PROXY": proxy.origin}
        assert site.run(*site.init_arguments("--token-file", token), env=env).code == 0
        assert proxy.connections == 0
        site.settle(proxy='"environment"')
        assert site.run("fetch", env={**env, "no_proxy": "127.0.0.1"}).code == 0
        assert proxy.connections == 0
        assert site.run("fetch", env=env).code == 0
        assert proxy.connections > 0
        secret = "http://me:s3cret-in-the-address@127.0.0.1:1"
        site.secrets.add("s3cret-in-the-address")
        wrong = site.run("fetch", env={"https_proxy": secret})
        assert wrong.code == 2 and "proxy address is not acceptable" in wrong.err
        assert site.run("fetch").code == 0
    site.check_scans()


@pytest.mark.slow
@pytest.mark.parametrize("option", ["--token-file", "--basic-file", "--proxy-basic-file"])
def test_a_secret_that_others_can_read_is_refused_by_the_command(
    site: HostileSite, option: str
) -> None:
    path = site.secret_file(f"me:{PASSWORD}")
    path.chmod(0o644)
    options = [option, path]
    if option == "--proxy-basic-file":
        options += ["--proxy", "http://127.0.0.1:1"]
    refused = site.run(*site.init_arguments(*options))
    assert refused.code == 2 and "others" in refused.err
    assert site.server.connections == 0
