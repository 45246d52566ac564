"""Makes feedback for a provider: how many matches of each entry people confirmed or rejected."""

from __future__ import annotations

from collections import Counter

from hashclient.audit.file import load_key
from hashclient.audit.log import Event
from hashclient.index.open_lists import expected_lists
from hashclient.lists.feedback import FORMAT, EntryFeedback, Feedback, encode_feedback
from hashclient.matches.stats import Statistics
from hashclient.session import Session
from hashclient.system.layout import AUDIT_KEY_NAME

#: The name of the event in the audit log that says that feedback was made.
WRITTEN = "feedback-written"
#: The names of the counts of an entry, in the order of `EntryFeedback`.
_COUNTS = ("confirmed", "rejected", "excepted", "held")


def make_feedback(session: Session, provider: str, record: Statistics) -> tuple[Feedback, bytes]:
    """Log that feedback for a provider is made; return the feedback and the signed file.

    The feedback contains the entries of the provider's lists that have a count above zero. The file
    is signed with the audit key.

    Raises:
        ConfigError: no provider has this name, or the seal key is missing.
        StateError, AuditError: the lists, the record of matches or the audit log cannot be read or
            written.
    """
    settings = session.settings
    root = settings.provider(provider).root_sha256
    expected = expected_lists(settings, session.sealer())
    # Entries of a list are left out if a list with the same name belongs to another provider.
    owners = {one.name: one.provider for one in expected if one.index is not None}
    lists = {
        one.name
        for one in expected
        if one.provider == provider == owners.get(one.name, provider) and one.name is not None
    }
    counts: Counter[tuple[str, str, str]] = Counter()
    for line in record.lines(settings.config.report.people):
        name, _, entry = line.about
        # An entry has several lines in the statistics if its category has changed.
        if name in lists and entry is not None:
            for word in _COUNTS:
                counts[name, entry, word] += getattr(line, word)
    names = dict.fromkeys((name, entry) for (name, entry, _), count in counts.items() if count)
    entries = tuple(EntryFeedback(*of, *(counts[*of, word] for word in _COUNTS)) for of in names)
    feedback = Feedback(FORMAT, root, session.now(), entries)
    data = {"provider": provider, "entries": len(entries), "by": session.operator}
    session.audit.append([Event(WRITTEN, data)], durable=True)
    return feedback, encode_feedback(feedback, load_key(settings.layout.audit / AUDIT_KEY_NAME))
