"""The report document: the facts about each file, as JSON with a published schema.

The document names files by path and entry, and contains no digest of a file. For each file the
document says whether a person has viewed it; otherwise only the digests of the file matched.
`docs/report.schema.json` is the schema; this module reads foreign documents strictly, and
`reporting.describing` makes documents. All other forms of a report are made from the report
document.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec

from hashclient.core.errors import VerificationError
from hashclient.core.match import Step, was_viewed
from hashclient.core.model import Time
from hashclient.system.process import memory_cap
from hashclient.system.strictjson import parse_json
from hashclient.system.text import excerpt, path_of
from hashclient.system.versions import is_newer

FORMAT: Literal["hashclient-report/2"] = "hashclient-report/2"

#: The largest memory in bytes for reading a document, about ten times the size of the longest
#: document.
MAX_PARSING_BYTES = 3 << 30

#: The patterns of the schema; a value that is used as a file name must match its pattern. The
#: patterns end with `\Z`, since `$` would accept a newline at the end.
MatchId = Annotated[str, msgspec.Meta(pattern=r"^[a-z0-9]{10}\Z")]
ReportId = Annotated[str, msgspec.Meta(pattern=r"^r-[a-z0-9]{10}\Z")]
_Sha256 = Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{64}\Z")]
_Count = Annotated[int, msgspec.Meta(ge=0)]


class _Strict(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    pass


class Reporter(_Strict, frozen=True):
    """The organisation that reports, its contact data, and the name of the machine."""

    organisation: str | None
    machine: str
    contact: str | None
    email: str | None


class Tool(_Strict, frozen=True):
    """The program that made the report."""

    name: str
    version: str


class Provider(_Strict, frozen=True):
    """A provider of lists, described in the same way by all its clients.

    `root_sha256`: the hash of the pinned root of trust. `url`: the provider's address; None if its
    files come as bundles.
    """

    root_sha256: _Sha256
    url: str | None


class Entry(_Strict, frozen=True):
    """An entry of a list that the file matched, and the algorithms whose digests agree.

    `provider`: the provider of the list, if it is known.
    """

    list: str
    entry: str
    category: str
    generation: _Count
    algorithms: tuple[Literal["md5", "sha1", "sha256"], ...]
    provider: Provider | None
    withdrawn_generation: _Count | None


class Evidence(_Strict, frozen=True):
    """A sealed file: its name in the package, and the keys for which it is encrypted."""

    name: Annotated[
        str, msgspec.Meta(pattern=r"^evidence/[a-z0-9]{10}(\.facts|\.[1-9][0-9]{0,3})?\.age\Z")
    ]
    sha256: _Sha256
    length: _Count
    recipients: tuple[str, ...]


class Context(Evidence, frozen=True, omit_defaults=True):
    """A sealed file that belongs to a match, and the path where it was."""

    path: str
    path_b64: str | None = None


class StoryStep(_Strict, frozen=True):
    """A step in the history of the file."""

    time: Time
    event: str
    detail: dict[str, Any]


class ReportedMatch(_Strict, frozen=True, omit_defaults=True):
    """A file that matched; `path_b64` is set if the path is not UTF-8.

    `evidence`: the sealed file itself. `facts`: facts about the source of the file. `context`:
    other files that belong to the match.
    """

    id: MatchId
    path: str
    size: _Count | None
    first_seen: Time
    last_seen: Time
    state: str
    viewed: bool
    in_place: bool
    entries: tuple[Entry, ...]
    evidence: Evidence | None
    story: tuple[StoryStep, ...]
    path_b64: str | None = None
    facts: Evidence | None = None
    context: tuple[Context, ...] = ()

    @property
    def sealed(self) -> dict[str, Evidence]:
        """All sealed files of the match, by the names that they must have in the package."""
        numbered = {context_name(self.id, n): c for n, c in enumerate(self.context, 1)}
        others = {evidence_name(self.id): self.evidence, facts_name(self.id): self.facts}
        return {name: one for name, one in others.items() if one is not None} | numbered


class Document(_Strict, frozen=True):
    """The whole report document."""

    format: Literal["hashclient-report/2"]
    report: ReportId
    created: Time
    reporter: Reporter
    tool: Tool
    matches: tuple[ReportedMatch, ...]


def named_in(document: Document) -> dict[str, Any]:
    """Return the reporter and the providers, as the signed record of a package has them."""
    providers = {e.provider for m in document.matches for e in m.entries if e.provider is not None}
    return {
        "organisation": document.reporter.organisation,
        "machine": document.reporter.machine,
        "providers": [
            {"root_sha256": p.root_sha256, "url": p.url}
            for p in sorted(providers, key=lambda p: (p.root_sha256, p.url or ""))
        ],
    }


def parse_document(text: bytes) -> Document:
    """Parse a report document strictly.

    Raises:
        VerificationError: the text is not a report document of the format `FORMAT`.
    """
    try:
        with memory_cap(MAX_PARSING_BYTES):
            values = parse_json(text)
            if isinstance(values, dict) and is_newer(FORMAT, str(values.get("format"))):
                raise VerificationError(
                    f"a report document of the format {excerpt(values['format'])}, which only"
                    " versions before the first release wrote"
                )
            document = msgspec.convert(values, Document)
        for match in document.matches:
            file_path(match)
            if match.viewed is not was_viewed(
                [Step(s.time, s.event, s.detail) for s in match.story]
            ):
                raise ValueError("only a review in its story says that it was viewed")
        return document
    except MemoryError as error:
        raise VerificationError("the report document asks for too much memory") from error
    except (ValueError, RecursionError) as error:
        raise VerificationError(f"not a report document of the format {FORMAT}") from error


def evidence_name(match_id: str) -> str:
    """Return the name of the sealed file of a match in a package."""
    return f"evidence/{match_id}.age"


def facts_name(match_id: str) -> str:
    """Return the name of the file in a package with the facts about the source of a match."""
    return f"evidence/{match_id}.facts.age"


def context_name(match_id: str, number: int) -> str:
    """Return the name in a package of file `number`, counted from 1, that belongs to a match."""
    return f"evidence/{match_id}.{number}.age"


def file_path(match: ReportedMatch) -> str:
    """Return the path of a reported file, decoded with surrogateescape."""
    return path_of(match.path, match.path_b64)
