"""Checks the options of `scan` for objects in buckets before the scan begins."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import click

from hashclient.cli.app import App
from hashclient.cli.options import gathered, negative
from hashclient.core.errors import UsageError

if TYPE_CHECKING:
    from hashclient.core.objecturi import ObjectUri
    from hashclient.scan.objects.objects import Objects
    from hashclient.scan.values.options import ScanOptions


class Asked(NamedTuple):
    """The options of `scan` for objects in buckets.

    - `reads`: whether the contents of the objects are read.
    - `all_versions`: whether all versions of an object are checked, or only the newest version.
    - `report`: the inventory report of a bucket, which lists the objects to scan.
    - `resume`: the token that says where an interrupted scan continues.
    - `uris`: the URIs of the objects, which are given among the paths of `scan`.
    """

    reads: bool
    all_versions: bool
    report: str | None
    resume: str | None
    uris: tuple[ObjectUri, ...] = ()

    @property
    def texts(self) -> list[str]:
        """The URIs of the objects as text."""
        return [uri.text for uri in self.uris]

    def check(self, *, others: bool, excludes: bool) -> None:
        """Refuse options that contradict each other.

        `others` says whether files are given, too; `excludes` says whether `--exclude` is given.

        Raises:
            UsageError: options contradict each other, or no path, URI or report is given.
        """
        if not self.uris and self.report is None and not others:
            raise UsageError(
                "missing argument: nothing to check",
                hint="see `hashclient scan --help`: give a PATH, `-` for stdin, or --files-from",
            )
        given = {
            "--no-read": not self.reads,
            "--all-versions": self.all_versions,
            "--resume": self.resume is not None,
            "--inventory-report": self.report is not None,
        }
        options = ", ".join(name for name, is_given in given.items() if is_given)
        if options and not self.uris and self.report is None:
            raise UsageError(
                f"{options}: there are no objects to check",
                hint="give a URI, as s3://BUCKET/PREFIX",
            )
        if options and others:
            raise UsageError(
                f"{options}: the command also has files to check",
                hint="scan the files with a command of their own",
            )
        if self.report is not None and (len(self.uris) > 1 or self.resume is not None):
            raise UsageError(
                "--inventory-report is about one bucket, from its beginning",
                hint="leave out --resume, and give one URI at most",
            )
        if excludes and (self.uris or self.report):
            raise UsageError(
                "--exclude is not for objects",
                hint="give only the prefixes to check, each as a URI",
            )
        if self.resume is not None and len(self.uris) != 1:
            raise UsageError(
                "--resume is about one URI", hint="give the URI of the interrupted scan"
            )

    def objects(self, app: App, options: ScanOptions, key_id: str) -> Objects | None:
        """Return the scan of the objects; None if no URI is given.

        The tags in the inventory were made with the key `key_id`.

        Raises:
            UsageError: the token that says where to continue is for another URI, or a library is
                missing.
        """
        if not self.uris and self.report is None:
            return None
        from hashclient.scan.objects.objects import read_token
        from hashclient.scan.run.start import objects_of

        return objects_of(
            app.session,
            self.uris,
            options,
            key_id,
            reads=self.reads,
            all_versions=self.all_versions,
            after=None if self.resume is None else read_token(self.resume, self.uris[0]),
            report=self.report,
        )


object_options = gathered(
    "asked",
    Asked,
    negative(
        "read",
        "reads",
        help="Read no object: check objects by their size and by trusted digests of their store; "
        "other objects are unread.",
    ),
    click.option(
        "--all-versions",
        is_flag=True,
        help="Check every version of each object, not only the latest; for S3.",
    ),
    click.option(
        "--inventory-report",
        "report",
        metavar="REPORT",
        help="Check the objects that REPORT names instead of a listing: the manifest.json of an S3"
        " Inventory, as path or URI, or a Parquet or CSV file with columns key and size, and"
        " perhaps etag and version.",
    ),
    click.option(
        "--resume",
        metavar="TOKEN",
        help="Continue a scan of objects that ended early, after the last checked object.",
    ),
)
