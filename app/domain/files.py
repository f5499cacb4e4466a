"""A stored file, as rows and manifests list it."""

from typing import TypedDict


class StoredFile(TypedDict):
    # Relative to the object prefix that the row names.
    path: str
    size_bytes: int
    sha256: str
