"""Files as rows list them: path, size and hash."""

import hashlib
from collections.abc import Sequence
from pathlib import Path

from app.domain.files import StoredFile


def describe_files(folder: Path) -> list[StoredFile]:
    """Every file in the folder and below, sorted by path, with its size and SHA-256."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    return [describe_file(path, folder) for path in paths]


def describe_file(path: Path, folder: Path) -> StoredFile:
    """One file, its path relative to `folder`."""
    return {
        "path": path.relative_to(folder).as_posix(),
        "size_bytes": path.stat().st_size,
        "sha256": file_sha256(path),
    }


def file_sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def content_sha256(files: Sequence[StoredFile]) -> str:
    """One hash over the paths and hashes of several files: equal folders, equal hash."""
    digest = hashlib.sha256()
    for file in sorted(files, key=lambda file: file["path"]):
        digest.update(f"{file['path']}\0{file['sha256']}\n".encode())
    return digest.hexdigest()
