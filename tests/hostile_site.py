"""A provider whose server a test controls, and the real command as its client.

The lists are valid and published by the real code; a test decides how they are served. After every
run, all output and all files of the command are searched for its secrets.
"""

from __future__ import annotations

import base64
import contextlib
import io
import ssl
import subprocess
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from urllib.parse import quote

from fixtures.client import content, csv
from fixtures.hostile import Behaviour, Connection, HostileServer, Request, reply
from fixtures.simulator import Simulator
from fixtures.tls import Authority, server_context
from hashclient.cli import main as command
from tests.kit import Run, arguments, call, checked, environment

TOKEN = "t0ken-7f3a9c-that-must-not-leak"
NUMBERS = range(5)


class HostileSite:
    """The provider, its server over TLS, and a state directory; a context manager.

    `secrets`: texts that no output may contain, in any of the usual encodings.
    """

    def __init__(
        self, directory: Path, authority: Authority, context: ssl.SSLContext | None = None
    ) -> None:
        """Publish one list, and serve it to clients that send `authorization`."""
        self.directory = directory
        self.authority = authority
        self.state = directory / "state"
        self.config = self.state / "config.toml"
        self.simulator = Simulator(directory / "provider")
        self.simulator.publish(csv(NUMBERS))
        self.root = directory / "root.json"
        self.root.write_bytes(self.simulator.root)
        self.inputs = directory / "inputs"
        self.inputs.mkdir()
        (self.inputs / "listed").write_bytes(content(3))
        self.server = HostileServer(context or server_context(authority.issue("site")))
        self.authorization: str | None = f"Bearer {TOKEN}"
        self.secrets = {TOKEN}
        self.serve()

    def __enter__(self) -> HostileSite:
        """Return the site."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the server."""
        self.server.close()

    def secret_file(self, text: str, name: str = "secret") -> Path:
        """Write a secret into a new file, and search all later output for it."""
        path = self.directory / name
        path.touch(mode=0o600)
        path.write_text(f"{text}\n")
        self.secrets.add(text.partition(":")[2] or text)
        return path

    def serve(self, answer: Callable[[bytes], Behaviour] = reply) -> None:
        """Serve all published files, each with the behaviour that `answer` returns."""
        for path, data in self.simulator.files.items():
            self.server.on(f"/{path}", self._guarded(answer(data)))

    def _guarded(self, behaviour: Behaviour) -> Behaviour:
        def behave(connection: Connection, request: Request) -> bool:
            known = request.header("authorization") == self.authorization
            return (behaviour if known else reply(status=401))(connection, request)

        return behave

    def init_arguments(self, *options: object) -> list[object]:
        """Return the arguments of `init`, with the authority and `options`."""
        origin = self.server.origin
        return ["init", origin, "--root", self.root, "--ca", self.authority.ca, *options]

    def run(self, *args: object, env: Mapping[str, str] | None = None) -> Run:
        """Run the real command with all its messages; no secret may appear anywhere."""
        shown = b""
        # The output goes to files, because at a full pipe that nobody reads, the command would wait
        # for ever.
        with tempfile.TemporaryFile() as told, tempfile.TemporaryFile() as warned:
            process = subprocess.Popen(
                arguments("-v", "--state-dir", self.state, *args),
                env=environment(HASHCLIENT_DEBUG="1", **(env or {})),
                stdin=subprocess.DEVNULL,
                stdout=told,
                stderr=warned,
            )
            while process.poll() is None:
                with contextlib.suppress(OSError):
                    shown += Path(f"/proc/{process.pid}/cmdline").read_bytes()
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(0.05)
            told.seek(0)
            warned.seek(0)
            out, err = told.read(), warned.read()
        assert b"hashclient" in shown
        self.check_secrets({"stdout": out, "stderr": err, "command line": shown})
        return checked(Run(process.returncode, out.decode(), err.decode()))

    def run_broken(self, *args: object) -> str:
        """Run a command that fails by a bug, in this process, and return the printed traceback."""
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = command._run(["-v", "--state-dir", str(self.state), *map(str, args)])
        assert code == 1
        self.check_secrets({"stdout": out.getvalue().encode(), "stderr": err.getvalue().encode()})
        return err.getvalue()

    def check_secrets(self, outputs: Mapping[str, bytes]) -> None:
        """Search `outputs` and all files of the state directory for the secrets."""
        places = dict(outputs)
        places |= {str(p): p.read_bytes() for p in self.state.rglob("*") if p.is_file()}
        for secret in self.secrets:
            raw = secret.encode()
            forms = {
                raw,
                quote(secret, safe="").encode(),
                repr(secret)[1:-1].encode(),
                raw.hex().encode(),
            }
            # Within Base64, a secret may begin at three positions; its ends depend on the
            # neighbouring bytes.
            forms |= {base64.b64encode(b"x" * n + raw)[4:-4] for n in range(3)}
            for place, data in places.items():
                assert not any(form in data for form in forms), place

    def settle(self, **settings: object) -> None:
        """Change the provider's table in the configuration."""
        lines = self.config.read_text().splitlines()
        kept = [line for line in lines if line.partition(" = ")[0] not in settings]
        position = kept.index("[providers.main]") + 1
        kept[position:position] = [f"{key} = {value}" for key, value in settings.items()]
        self.config.write_text("\n".join([*kept, ""]))

    def kept(self) -> dict[str, bytes]:
        """Return all files of lists and of trust that the client has."""
        return {
            str(path): path.read_bytes()
            for folder in ("lists", "trust")
            for path in sorted((self.state / folder).rglob("*"))
            if path.is_file()
        }

    def check_scans(self) -> None:
        """Check that the old generation is complete and in use."""
        scanned = call("--state-dir", self.state, "scan", self.inputs, "--format", "jsonl")
        assert (scanned.code, scanned.summary["match"]) == (10, 1), scanned.err
