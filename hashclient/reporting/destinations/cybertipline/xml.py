"""XML of a reporting service: writes documents in the schema's order, and reads answers safely.

The tables here give the order of elements. Before a document is sent, it is validated against the
schema that the service serves. Answers and schema are not trusted: document types, entities and
external files are refused, and size and depth are bounded. `api` bounds lengths as bytes arrive;
`sandbox` bounds the time and memory of a schema.
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

#: The deepest nesting accepted; answers of a reporting service are flatter.
MAX_DEPTH = 20
#: The longest text that is kept from one element of an answer.
MAX_TEXT_CHARS = 1000

#: A validator may repeat a digest of the document, and no message may hold a digest.
_DIGEST = re.compile(r"[0-9A-Fa-f]{32,}")

# The elements that are used, in the order in which the public description of the API lists them.
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

#: A text, the content of an element, a text with attributes, or a sequence of these.
Content = str | Mapping[str, Any] | tuple[str, Mapping[str, str]] | Sequence[Any]


#: Facts about sources: texts by name; or, by match, texts by name.
_NO_FACTS: Mapping[str, Any] = MappingProxyType({})


def report_element(
    document: Document,
    incident_type: str,
    with_file: Collection[str],
    sealed: Collection[str],
    facts: Mapping[str, Mapping[str, str]] = _NO_FACTS,
) -> ET.Element:
    """Return the report that opens a submission.

    `with_file` are the matches whose file will follow; the others are described here, with the
    `facts` about their sources. Matches in `sealed` have sealed files. An account is the reported
    person, if no other person is known.
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
    """Return the details of an uploaded file.

    `digests` has the known digests of the original file, hexadecimal, by the name of the algorithm;
    `sealed_to` has the public keys, if the sealed form was uploaded. `facts` are about the source;
    facts without an XML element are in the text.
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
    """Return in one line the place of a file and the entries that it matched."""
    entries = "; ".join(
        f"list {printable(e.list)}, entry {printable(e.entry)}, category {printable(e.category)},"
        f" generation {e.generation}, by {', '.join(e.algorithms)}"
        for e in match.entries
        if e.withdrawn_generation is None
    )
    size = "unknown size" if match.size is None else f"{match.size} bytes"
    return f"match {match.id}: {printable(file_path(match))} ({size}): {entries}"


def _as_elements(facts: Mapping[str, str]) -> dict[str, Content]:
    """Return the facts that have elements of their own in the report."""
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
    """Return the bytes of a document."""
    text: bytes = ET.tostring(element, encoding="utf-8", xml_declaration=True)
    return text


class Validator(Protocol):
    """Checks a document before it is sent."""

    def validate(self, document: bytes) -> None:
        """Check that the service will take `document`; raise ConfigError if it will not."""


class Schema:
    """The schema that a service serves, read and used in this process.

    Only `sandbox` guards against a hostile schema, for example a schema that takes for ever.
    """

    def __init__(self, text: bytes) -> None:
        """Read the schema; files that it refers to are not loaded.

        Raises:
            VerificationError: the text is not a schema, or refers to other files.
        """
        import xmlschema

        try:
            with warnings.catch_warnings():
                # Warnings about parts that are not loaded; if these parts matter, the next call
                # fails.
                warnings.simplefilter("ignore", xmlschema.exceptions.XMLSchemaWarning)
                # The bytes begin with a tag: the library could take other text for a file name.
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
        """Check that the service will take `document`.

        Raises:
            ConfigError: the service would refuse the document; the message names the wrong element.
            VerificationError: the schema cannot be used after all.
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
    """Return the error for a schema that cannot be used, with the reason."""
    first = _DIGEST.sub("…", why.partition("\n")[0].rstrip(":"))
    return VerificationError(
        f"the schema that the service serves cannot be used: {excerpt(first)}",
        hint="tell the service's operators; the report waits in the outbox",
    )


def parse_answer(text: bytes) -> dict[str, list[str]]:
    """Return the texts of the elements of an answer that hold no others, by name.

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
    # LookupError: the encoding is unknown.
    except (expat.ExpatError, ValueError, LookupError) as error:
        raise UnreachableError("the service answers with something that is no answer") from error
    return found
