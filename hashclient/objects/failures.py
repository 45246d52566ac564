"""Translates failures of an object store into texts of this project.

Errors of botocore and obstore may contain addresses, headers, keys, and output of credential
helpers, so no part of such an error is passed on. The text of a failure depends only on the class
of the error, the HTTP status, and the store's error code, if this code is known.
"""

from __future__ import annotations

import enum
import re
from typing import Any

from hashclient.core.errors import UsageError

HINT_EXTRA = "`pip install '.[objects]'` in a checkout installs the clients of object stores"


class Trouble(enum.Enum):
    """Kinds of failures that callers handle differently."""

    GONE = enum.auto()
    CHANGED = enum.auto()
    DENIED = enum.auto()
    NAME = enum.auto()  # neither botocore nor obstore can represent the key
    OTHER = enum.auto()


class StoreError(Exception):
    """A request to a store has failed; `reason` is a text for people."""

    def __init__(self, trouble: Trouble, reason: str) -> None:
        super().__init__(reason)
        self.trouble = trouble
        self.reason = reason


GONE = "vanished after it was listed"
CHANGED = "changed after it was listed"
DENIED = "permission denied"
NAME = "no client can ask for a key like this"
UNREACHABLE = "the store cannot be reached, or the connection broke"
NO_RANGES = "the store does not give a part of an object, as it was asked to"
NO_CREDENTIALS = "no credentials were found"
MALFORMED = "the address or the answer of the store has no known form"
UNFINISHED = "the store does not say how its listing goes on"

_BUSY = "the store is too busy"
_ARCHIVED = "is in an archive storage class: it has to be restored before it can be read"
_EXPIRED = "the credentials have expired"
_REFUSED = "the credentials are not accepted"
_KEY = "is encrypted, and its key cannot be used"

_BY_CODE: dict[str, tuple[Trouble, str]] = {
    "NoSuchBucket": (Trouble.OTHER, "no such bucket"),
    "ContainerNotFound": (Trouble.OTHER, "no such bucket"),
    "InvalidBucketName": (Trouble.OTHER, "no such bucket"),
    "NoSuchKey": (Trouble.GONE, GONE),
    "NoSuchVersion": (Trouble.GONE, GONE),
    "BlobNotFound": (Trouble.GONE, GONE),
    "PreconditionFailed": (Trouble.CHANGED, CHANGED),
    "ConditionNotMet": (Trouble.CHANGED, CHANGED),
    "InvalidRange": (Trouble.CHANGED, CHANGED),
    "AccessDenied": (Trouble.DENIED, DENIED),
    "AllAccessDisabled": (Trouble.DENIED, DENIED),
    "AuthorizationPermissionMismatch": (Trouble.DENIED, DENIED),
    "InvalidObjectState": (Trouble.OTHER, _ARCHIVED),
    "BlobArchived": (Trouble.OTHER, _ARCHIVED),
    "ExpiredToken": (Trouble.OTHER, _EXPIRED),
    "ExpiredTokenException": (Trouble.OTHER, _EXPIRED),
    "TokenRefreshRequired": (Trouble.OTHER, _EXPIRED),
    "InvalidToken": (Trouble.OTHER, _REFUSED),
    "InvalidAccessKeyId": (Trouble.OTHER, _REFUSED),
    "SignatureDoesNotMatch": (Trouble.OTHER, _REFUSED),
    "AuthenticationFailed": (Trouble.OTHER, _REFUSED),
    "SlowDown": (Trouble.OTHER, _BUSY),
    "ServerBusy": (Trouble.OTHER, _BUSY),
    "ServiceUnavailable": (Trouble.OTHER, _BUSY),
    "TooManyRequests": (Trouble.OTHER, _BUSY),
    "KMS.DisabledException": (Trouble.OTHER, _KEY),
    "KMS.NotFoundException": (Trouble.OTHER, _KEY),
    "KMS.AccessDeniedException": (Trouble.OTHER, _KEY),
}
_BY_STATUS: dict[int, tuple[Trouble, str]] = {
    401: (Trouble.OTHER, _REFUSED),
    403: (Trouble.DENIED, DENIED),
    404: (Trouble.GONE, GONE),
    412: (Trouble.CHANGED, CHANGED),
    416: (Trouble.CHANGED, CHANGED),
    429: (Trouble.OTHER, _BUSY),
    503: (Trouble.OTHER, _BUSY),
}
#: Finds the HTTP status in the text of an obstore error; in this text, the body of the answer
#: follows the status.
_STATUS = re.compile(r"status code: ([0-9]{3})\b")
#: The text of the obstore error for a range request whose answer has another status than 206.
_NOT_PARTIAL = "Received non-partial response when range requested"
_CODE = re.compile(r"<Code>([A-Za-z.]{1,60})</Code>")


def missing_extra(error: ImportError) -> UsageError:
    """Return the error for a library that object stores need, and that is not installed."""
    name = (error.name or "obstore").partition(".")[0]
    return UsageError(f"object stores need {name}, which is not installed", hint=HINT_EXTRA)


def of_obstore(error: BaseException) -> StoreError:
    """Return the failure for an error of obstore, without the text of the error."""
    # The store's error code takes precedence over the HTTP status, because the status 403 usually
    # means that permission is missing, but a store also answers 403 for an archived object.
    text = str(error)
    status = _STATUS.search(text)
    if status is not None:
        code = _CODE.search(text, status.end())
        found = _meaning_of(None if code is None else code[1], int(status[1]))
    elif _NOT_PARTIAL in text:
        found = Trouble.OTHER, NO_RANGES
    else:
        found = _BY_CLASS.get(type(error).__name__, (Trouble.OTHER, UNREACHABLE))
    return StoreError(*found)


#: Failures without an answer of the store, by the class name of the error.
_BY_CLASS: dict[str, tuple[Trouble, str]] = {
    "ValueError": (Trouble.NAME, NAME),
    "InvalidPathError": (Trouble.NAME, NAME),
    "UnauthenticatedError": (Trouble.OTHER, NO_CREDENTIALS),
    "FileNotFoundError": (Trouble.GONE, GONE),
    "PreconditionError": (Trouble.CHANGED, CHANGED),
    "PermissionDeniedError": (Trouble.DENIED, DENIED),
    # errors of botocore if the store has not answered
    "ParamValidationError": (Trouble.NAME, NAME),
    "UnicodeEncodeError": (Trouble.NAME, NAME),
    "NoCredentialsError": (Trouble.OTHER, NO_CREDENTIALS),
    "PartialCredentialsError": (Trouble.OTHER, NO_CREDENTIALS),
    "CredentialRetrievalError": (Trouble.OTHER, NO_CREDENTIALS),
    "TokenRetrievalError": (Trouble.OTHER, NO_CREDENTIALS),
    "SSOTokenLoadError": (Trouble.OTHER, NO_CREDENTIALS),
    "UnauthorizedSSOTokenError": (Trouble.OTHER, _EXPIRED),
}

#: The class names of errors that botocore raises for an address or an answer that it cannot parse.
_OF_FORM = frozenset({"ResponseParserError", "ValueError"})


def of_botocore(error: BaseException) -> StoreError:
    """Return the failure for an error of botocore, without the text of the error."""
    response: Any = getattr(error, "response", None)
    if isinstance(response, dict):
        status = response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
        return StoreError(*_meaning_of(str(response.get("Error", {}).get("Code", "")), int(status)))
    if type(error).__name__ in _OF_FORM:
        return StoreError(Trouble.OTHER, MALFORMED)
    return StoreError(*_BY_CLASS.get(type(error).__name__, (Trouble.OTHER, UNREACHABLE)))


def _meaning_of(code: str | None, status: int) -> tuple[Trouble, str]:
    known = _BY_CODE.get(code or "") or _BY_STATUS.get(status)
    if known is not None:
        return known
    if status >= 500:
        return Trouble.OTHER, f"the store failed: it answered {status}"
    return Trouble.OTHER, f"the store refused: it answered {status}"
