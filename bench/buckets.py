"""A loopback server of buckets with many objects, and peer programs that list a bucket.

    python -m bench.buckets serve COUNT     serve; print the port and the number of reads
    python -m bench.buckets obstore URL     list a bucket with obstore, and do nothing else
    python -m bench.buckets botocore URL    list a bucket with botocore's paginator
    python -m bench.buckets parquet FILE    read an inventory report, and do nothing else

The name of a bucket says how many objects the bucket has: `objects-1000000`. A URL names the server
and the bucket. The server makes the content of an object when a client asks for the object: a
number and blanks, so that the ETag of each object is the MD5 of the object's content.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import socketserver
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import numpy as np

PAGE = 1_000
#: The number of objects in the small bucket. One page lists all of them, so a scan of the small
#: bucket costs little more than the start of the program.
FEW = PAGE
#: The number of objects that suffices to measure the cost of one object, at any scale.
ENOUGH = 100_000
ROWS = 1_000_000
#: The number of events of new objects that a watch gets, at any scale.
EVENTS = 2_000
#: Seconds between two measurements of the memory of a process.
LOOK_S = 0.1
#: The smallest and the largest size of an object, in bytes; sizes in the list are similar.
SMALLEST, LARGEST = 1_000, 3_000

ENVIRONMENT = {
    "AWS_ACCESS_KEY_ID": "AKIAIOSFODNN7EXAMPLE",
    "AWS_SECRET_ACCESS_KEY": "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY",
    "AWS_DEFAULT_REGION": "us-east-1",
    "AWS_CONFIG_FILE": os.devnull,
    "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
}


def bucket_of(count: int) -> str:
    """Return the name of a bucket with `count` objects."""
    return f"objects-{count}"


def size_of(number: int) -> int:
    """Return the size of an object."""
    return SMALLEST + number * 7919 % (LARGEST - SMALLEST)


def content_of(number: int) -> bytes:
    """Return the content of an object."""
    return (b"%d" % number).ljust(size_of(number))


def key_of(number: int) -> str:
    """Return the key of an object; keys are in the order of numbers."""
    return f"uploads/{number // 1_000:06d}/{number:09d}.jpg"


def etag_of(number: int) -> str:
    """Return the ETag of an object, without quotes."""
    return hashlib.md5(content_of(number), usedforsecurity=False).hexdigest()


def page_of(start: int, count: int) -> bytes:
    """Return a page of the listing that begins with the object `start`."""
    stop = min(start + PAGE, count)
    rows = "".join(
        f"<Contents><Key>{key_of(n)}</Key><LastModified>2026-01-01T00:00:00.000Z</LastModified>"
        f"<ETag>&quot;{etag_of(n)}&quot;</ETag><Size>{size_of(n)}</Size>"
        "<StorageClass>STANDARD</StorageClass></Contents>"
        for n in range(start, stop)
    )
    more = "" if stop == count else f"<NextContinuationToken>{stop}</NextContinuationToken>"
    return (
        '<?xml version="1.0" encoding="UTF-8"?>'
        '<ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/">'
        f"<Name>{bucket_of(count)}</Name><KeyCount>{stop - start}</KeyCount><MaxKeys>1000</MaxKeys>"
        f"<IsTruncated>{str(bool(more)).lower()}</IsTruncated>{more}{rows}</ListBucketResult>"
    ).encode()


EMPTY = page_of(0, 0)


class _Handler(socketserver.StreamRequestHandler):
    """Answers the requests of one client until the client disconnects."""

    server: Server

    def handle(self) -> None:
        while line := self.rfile.readline():
            while self.rfile.readline() not in (b"\r\n", b""):
                pass
            method, target, _ = line.decode().split()
            self._answer(target, is_head=method == "HEAD")

    def _answer(self, target: str, *, is_head: bool) -> None:
        parts = urlsplit(target)
        query = parse_qs(parts.query)
        extra = ""
        if "list-type" in query:
            start = int(query.get("continuation-token", ["0"])[0])
            count = int(parts.path.strip("/").rpartition("-")[2])
            body = EMPTY if "prefix" in query else self.server.page(start, count)
            status = "200 OK"
        else:
            number = int(Path(parts.path).stem)
            self.server.reads += 1
            body, size = content_of(number), size_of(number)
            status = "200 OK" if is_head else "206 Partial Content"
            extra = (
                f'ETag: "{etag_of(number)}"\r\nContent-Range: bytes 0-{size - 1}/{size}\r\n'
                "Last-Modified: Thu, 01 Jan 2026 00:00:00 GMT\r\n"
            )
        head = f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\n{extra}\r\n"
        self.wfile.write(head.encode() + (b"" if is_head else body))


class Server(socketserver.ThreadingTCPServer):
    """The server, which makes the pages of the bucket with `count` objects before it listens."""

    daemon_threads = True

    def __init__(self, count: int) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self._count = count
        self._pages = [page_of(start, count) for start in range(0, count, PAGE)]
        self.reads = 0

    def page(self, start: int, count: int) -> bytes:
        """Return a page of a bucket; the pages of the bucket that `serve` names are ready."""
        return self._pages[start // PAGE] if count == self._count else page_of(start, count)


def serve(count: int) -> None:
    """Serve the buckets until stdin ends."""
    import threading

    with Server(count) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        print(server.server_address[1], flush=True)
        for _ in sys.stdin:
            print(server.reads, flush=True)


@contextlib.contextmanager
def served(count: int) -> Iterator[tuple[str, Callable[[], int]]]:
    """Run the server; yield its URL, and a function that returns how many objects were read."""
    words = [sys.executable, "-m", "bench.buckets", "serve", str(count)]
    pipe = subprocess.PIPE
    with subprocess.Popen(words, stdin=pipe, stdout=pipe, text=True) as server:
        assert server.stdin is not None
        assert server.stdout is not None
        asking, answers = server.stdin, server.stdout

        def reads() -> int:
            asking.write("\n")
            asking.flush()
            return int(answers.readline())

        try:
            yield f"http://127.0.0.1:{int(answers.readline())}", reads
        finally:
            server.terminate()


def cost_of(
    words: Sequence[str | os.PathLike[str]],
    url: str,
    codes: Sequence[int] = (0,),
    stdin: Path | None = None,
) -> tuple[float, int]:
    """Run a command and return its CPU seconds and its peak memory in bytes.

    The command reads `stdin`. Memory is all resident memory except mapped pages of an index,
    because the kernel caches those pages in any case, and drops them when it needs memory.

    Raises:
        RuntimeError: the exit code of the command is not in `codes`.
    """
    env = {**os.environ, **ENVIRONMENT, "AWS_ENDPOINT_URL": url}
    with (
        (stdin or Path(os.devnull)).open("rb") as given,
        subprocess.Popen(words, env=env, stdin=given, stdout=subprocess.DEVNULL) as process,
    ):
        memory = 0
        while True:
            time.sleep(LOOK_S)
            memory = max(memory, resident_bytes(process.pid))
            ended, status, used = os.wait4(process.pid, os.WNOHANG)
            if ended:
                break
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode not in codes:
        raise RuntimeError(f"{words}: exit {process.returncode}")
    return used.ru_utime + used.ru_stime, memory


def resident_bytes(pid: int) -> int:
    """Return the resident bytes of a process (0 if it has ended), without pages of an index."""
    found, is_index = 0, False
    with contextlib.suppress(OSError), Path(f"/proc/{pid}/smaps").open() as lines:
        for line in lines:
            if line.startswith("Rss:"):
                found += 0 if is_index else int(line.split()[1]) << 10
            elif "-" in line.partition(" ")[0]:
                is_index = "/lists/" in line and "/run-" in line
    return found


def by_obstore(url: str) -> None:
    """List a bucket with obstore, as fast as obstore can."""
    import obstore
    from obstore.store import S3Store

    os.environ.update(ENVIRONMENT)
    make: Any = S3Store
    endpoint, _, bucket = url.rpartition("/")
    store = make(bucket, config={"endpoint": endpoint}, client_options={"allow_http": True})
    stream = obstore.list(store, chunk_size=PAGE, return_arrow=True)
    print(sum(chunk.num_rows for chunk in stream))


def by_botocore(url: str) -> None:
    """List a bucket with botocore's paginator."""
    import botocore.session

    os.environ.update(ENVIRONMENT)
    endpoint, _, bucket = url.rpartition("/")
    client: Any = botocore.session.get_session().create_client("s3", endpoint_url=endpoint)
    pages = client.get_paginator("list_objects_v2").paginate(Bucket=bucket)
    print(sum(len(page["Contents"]) for page in pages))


def write_report(path: Path, count: int) -> None:
    """Write an inventory report of the bucket's objects, in the form of S3 Inventory."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    numbers = range(count)
    table = pa.table(
        {
            "key": [key_of(n) for n in numbers],
            "size": np.array([size_of(n) for n in numbers], np.uint64),
            "e_tag": [etag_of(n) for n in numbers],
        }
    )
    pq.write_table(table, path)


def read_report(path: str) -> None:
    """Read an inventory report and do nothing else."""
    import pyarrow.parquet as pq

    with pq.ParquetFile(path) as file:
        print(sum(batch.num_rows for batch in file.iter_batches(batch_size=10_000)))


if __name__ == "__main__":
    _, what, argument = sys.argv
    if what == "serve":
        serve(int(argument))
    else:
        {"obstore": by_obstore, "botocore": by_botocore, "parquet": read_report}[what](argument)
