"""The XML of a reporting service: makes documents, validates them, and parses answers safely.

The table `_ORDER` has the order of elements. Before a document is sent, it is validated against the
schema that is fetched from the service. Answers and schema are not trusted: document types,
entities and external files are refused, and the depth of nesting is limited. The module `api`
limits the length of answers as bytes arrive; the module `sandbox` limits the time and memory of a
validation.
"""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Collection, Mapping, Sequence
from datetime import UTC, datetime
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Protocol
from xml.etree import ElementTree as ET
from xml.parsers import expat

from hashclient.core.errors import ConfigError, UnreachableError, VerificationError
from hashclient.packages.document import Document, ReportedMatch, file_path
from hashclient.system.text import excerpt, printable

if TYPE_CHECKING:
    import xmlschema

#: The deepest nesting of elements that is accepted; real answers have less.
MAX_DEPTH = 20
#: The longest text of an element of an answer that is kept, in characters.
MAX_TEXT_CHARS = 1000

#: A digest, which is removed from messages, because a validator may repeat a digest of the
#: document.
_DIGEST = re.compile(r"[0-9A-Fa-f]{32,}")

# The child elements that this module writes, by element, in the order of the public description of
# the API.
_ORDER = {
    "report": ("incidentSummary", "reporter", "personOrUserReported", "additionalInfo"),
    "personOrUserReported": ("espIdentifier",),
    "ipCaptureEvent": ("ipAddress", "eventName", "dateTime"),
    "incidentSummary": ("incidentType", "incidentDateTime"),
    "reporter": ("reportingPerson", "contactPerson"),
    "reportingPerson": ("firstName", "lastName", "email"),
    "fileDetails": (
        "reportId",
        "fileId",
        "fileName",
        "originalFileName",
        "uploadedToEspTimestamp",
        "locationOfFile",
        "fileViewedByEsp",
        "exifViewedByEsp",
        "publiclyAvailable",
        "fileRelevance",
        "industryClassification",
        "originalFileHash",
        "ipCaptureEvent",
        "additionalInfo",
    ),
}

#: The content of an element: a text, child elements by name, or a text with attributes; a list
#: means several elements with the same name.
Content = str | Mapping[str, Any] | tuple[str, Mapping[str, str]] | Sequence[Any]


#: The default of the parameters `facts`: no facts.
_NO_FACTS: Mapping[str, Any] = MappingProxyType({})


def report_element(
    document: Document,
    incident_type: str,
    with_file: Collection[str],
    sealed: Collection[str],
    facts: Mapping[str, Mapping[str, str]] = _NO_FACTS,
) -> ET.Element:
    """Return the XML element that opens a report at the service.

    `with_file` are the ids of matches whose files will be uploaded; the other matches are described
    in this element, with the `facts` about their sources. `sealed` are the ids of matches whose
    files are uploaded sealed. If the facts contain exactly one account, this account becomes the
    reported person.
    """
    first = min(match.first_seen for match in document.matches)
    others = [match for match in document.matches if match.id not in with_file]
    lines = [
        f"hashclient report {document.report}: {len(document.matches)} files.",
        f"They were matched by digest; {_viewed(document)}.",
        *(f"reported by {text}" for text in _reporter(document)),
    ]
    if others:
        lines.append(f"{len(others)} of them are not uploaded:")
        for match in others:
            lines += [about(match), *_named(facts.get(match.id, {}))]
    if sealed:
        lines.append("Files are uploaded sealed, in the age format.")
    return _element(
        "report",
        {
            "incidentSummary": {
                "incidentType": printable(incident_type),
                "incidentDateTime": _time(first),
            },
            "reporter": {"reportingPerson": {"email": printable(document.reporter.email or "")}},
            **_person({known["account"] for known in facts.values() if "account" in known}),
            "additionalInfo": "\n".join(lines),
        },
    )


def file_element(
    match: ReportedMatch,
    report_id: str,
    file_id: str,
    digests: Mapping[str, str],
    sealed_to: Sequence[str] | None,
    facts: Mapping[str, str] = _NO_FACTS,
) -> ET.Element:
    """Return the XML element with the details of an uploaded file.

    `digests` are the known digests of the plain file, hexadecimal, by the name of the algorithm.
    `sealed_to` are the public keys if the file was uploaded sealed, else None. `facts` are facts
    about the source; a fact that has no XML element is written to `additionalInfo`.
    """
    name = printable(os.path.basename(file_path(match)))  # noqa: PTH119 - any bytes
    others = {name: facts[name] for name in ("account", "message_id") if name in facts}
    lines = [about(match), *_named(others)]
    if sealed_to is not None:
        lines.append(f"Sealed in the age format to: {', '.join(sealed_to)}")
    return _element(
        "fileDetails",
        {
            "reportId": report_id,
            "fileId": file_id,
            "fileName": name if sealed_to is None else f"{match.id}.age",
            "originalFileName": name,
            **_as_elements(facts),
            "fileViewedByEsp": "true" if match.viewed else "false",
            "originalFileHash": [(value, {"hashType": n}) for n, value in digests.items()],
            "additionalInfo": "\n".join(lines),
        },
    )


def about(match: ReportedMatch) -> str:
    """Return a line with the path of a file and the entries that it matched."""
    entries = "; ".join(
        f"list {printable(e.list)}, entry {printable(e.entry)}, category {printable(e.category)},"
        f" generation {e.generation}, by {', '.join(e.algorithms)}"
        for e in match.entries
        if e.withdrawn_generation is None
    )
    size = "unknown size" if match.size is None else f"{match.size} bytes"
    return f"match {match.id}: {printable(file_path(match))} ({size}): {entries}"


def _as_elements(facts: Mapping[str, str]) -> dict[str, Content]:
    """Return the facts about a source that have XML elements, by element name."""
    names = {"uploaded": "uploadedToEspTimestamp", "url": "locationOfFile"}
    found: dict[str, Content] = {names[n]: text for n, text in facts.items() if n in names}
    if "address" in facts:
        event = {"ipAddress": facts["address"], "eventName": "Upload"}
        time = {"dateTime": facts["uploaded"]} if "uploaded" in facts else {}
        found["ipCaptureEvent"] = event | time
    return found


def _person(accounts: Collection[str]) -> dict[str, Content]:
    if len(accounts) != 1:
        return {}
    (account,) = accounts
    return {"personOrUserReported": {"espIdentifier": account}}


def _named(facts: Mapping[str, str]) -> list[str]:
    return [f"{name.replace('_', ' ')} of its source: {text}" for name, text in facts.items()]


def _viewed(document: Document) -> str:
    count = sum(match.viewed for match in document.matches)
    return f"{count} of them were viewed by a person" if count else "nobody has viewed them"


def _reporter(document: Document) -> list[str]:
    reporter = document.reporter
    return [printable(text) for text in (reporter.organisation, reporter.contact) if text]


def _time(time: datetime) -> str:
    return time.astimezone(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


def _element(tag: str, content: Content) -> ET.Element:
    element = ET.Element(tag)
    if isinstance(content, Mapping):
        order = _ORDER[tag]
        assert content.keys() <= set(order), "a name is missing in the table"
        for name in order:
            if name in content:
                inner = content[name]
                for each in inner if isinstance(inner, list) else [inner]:
                    element.append(_element(name, each))
    elif isinstance(content, tuple):
        element.text, attributes = content
        element.attrib.update(attributes)
    else:
        assert isinstance(content, str)
        element.text = content
    return element


def to_bytes(element: ET.Element) -> bytes:
    """Return the XML document with the root `element` as bytes."""
    text: bytes = ET.tostring(element, encoding="utf-8", xml_declaration=True)
    return text


class Validator(Protocol):
    """An object that validates a document before it is sent."""

    def validate(self, document: bytes) -> None:
        """Check that `document` is valid against the schema; raise ConfigError if it is not."""


class Schema:
    """The schema of a service, used in this process.

    This class does not limit time and memory, so a schema that is not trusted must be used through
    the module `sandbox`.
    """

    def __init__(self, text: bytes) -> None:
        """Read the schema; files to which the schema refers are not loaded.

        Raises:
            VerificationError: the text is not a schema, or refers to other files.
        """
        import xmlschema

        try:
            with warnings.catch_warnings():
                # Warnings about parts of the schema that are not loaded are ignored; if these parts
                # are needed, the next call fails.
                warnings.simplefilter("ignore", xmlschema.exceptions.XMLSchemaWarning)
                # The passed bytes begin with `<`, because the library could read another text as a
                # file name.
                self._schema: xmlschema.XMLSchema = xmlschema.XMLSchema(
                    b"<" + text.partition(b"<")[2], allow="none", defuse="always"
                )
        except (
            xmlschema.XMLSchemaException,
            SyntaxError,
            ValueError,
            TypeError,
            LookupError,
            ArithmeticError,
            RecursionError,
        ) as error:
            raise unusable(str(error)) from error

    def validate(self, document: bytes) -> None:
        """Check that `document` is valid against the schema.

        Raises:
            ConfigError: the document is not valid; the message names the wrong element.
            VerificationError: the schema cannot be used for this document.
        """
        import xmlschema

        try:
            self._schema.validate(document.decode())
        except xmlschema.XMLSchemaValidationError as error:
            reason = _DIGEST.sub("…", error.reason or "not valid")
            raise ConfigError(
                "the report does not fit the schema that the service serves:"
                f" {excerpt(error.path or 'the whole')}: {excerpt(reason)}",
                hint="the report was not sent; check incident_type, and whether the service is of"
                " this kind",
            ) from error
        except (
            xmlschema.XMLSchemaException,
            ValueError,
            LookupError,
            ArithmeticError,
            RecursionError,
        ) as error:
            raise unusable(str(error)) from error


def unusable(why: str) -> VerificationError:
    """Return the exception for a schema that cannot be used; `why` is the reason."""
    first = _DIGEST.sub("…", why.partition("\n")[0].rstrip(":"))
    return VerificationError(
        f"the schema that the service serves cannot be used: {excerpt(first)}",
        hint="tell the service's operators; the report waits in the outbox",
    )


def parse_answer(text: bytes) -> dict[str, list[str]]:
    """Return the texts of the elements without child elements in an answer, by element name.

    Raises:
        UnreachableError: the text is not an answer of a reporting service.
    """
    found: dict[str, list[str]] = {}
    path: list[str] = []
    parts: list[str] = []
    is_leaf = False
    parser = expat.ParserCreate()

    def start(name: str, _attributes: dict[str, str]) -> None:
        nonlocal is_leaf
        path.append(name.rpartition(":")[2])
        if len(path) > MAX_DEPTH:
            raise ValueError("too deep")
        parts.clear()
        is_leaf = True

    def end(_name: str) -> None:
        nonlocal is_leaf
        name = path.pop()
        if is_leaf:
            found.setdefault(name, []).append("".join(parts).strip()[:MAX_TEXT_CHARS])
        is_leaf = False

    def refuse(*_: object) -> None:
        raise ValueError("a document type")

    parser.StartElementHandler = start
    parser.EndElementHandler = end
    parser.CharacterDataHandler = parts.append
    parser.StartDoctypeDeclHandler = refuse
    parser.EntityDeclHandler = refuse
    try:
        parser.Parse(text, True)  # noqa: FBT003 - of the standard library
    # LookupError is raised for an unknown encoding.
    except (expat.ExpatError, ValueError, LookupError) as error:
        raise UnreachableError("the service answers with something that is no answer") from error
    return found
