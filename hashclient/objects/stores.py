"""Chooses the client (botocore or obstore) for the URI of a bucket."""

from __future__ import annotations

from hashclient.core.objecturi import ObjectUri
from hashclient.objects.others import Other
from hashclient.objects.s3 import S3


def open_store(uri: ObjectUri) -> S3 | Other:
    """Return the bucket of a URI; send no request to the store."""
    return S3(uri.bucket) if uri.scheme == "s3" else Other(uri.scheme, uri.bucket)
