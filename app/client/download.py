"""Fetch an artifact: resumed by ranges, proved by its hashes, unpacked without trust in the archive."""

import contextlib
import fcntl
import hashlib
import json
import shutil
import tarfile
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

import httpx

from app.client.api import TRANSIENT, ClientError, NoAnswer, error_of


class PlaceTaken(ClientError):
    """Something has come to where the student was to be."""


# The pauses between them double: four minutes in all.
ATTEMPTS_WITHOUT_PROGRESS = 9
PAUSE_SECONDS = 0.5


def download(
    http: httpx.Client,
    path: str,
    target: Path,
    *,
    size_bytes: int,
    sha256: str,
) -> None:
    """Stream `path` into `target`; a broken transfer goes on where it stopped, also in a later process.

    `target` appears only when its hash is right.
    """
    part = target.with_name(target.name + ".part")
    part.parent.mkdir(parents=True, exist_ok=True)
    with _held(part):
        if part.stat().st_size > size_bytes:
            part.write_bytes(b"")
        attempts = 0
        while (offset := part.stat().st_size) < size_bytes:
            problem = _fetch_rest(http, path, part, offset)
            attempts = 0 if part.stat().st_size > offset else attempts + 1
            if attempts >= ATTEMPTS_WITHOUT_PROGRESS:
                raise NoAnswer(f"The download of {path} stopped at {offset} of {size_bytes} bytes: {problem}.")
            if problem:
                time.sleep(PAUSE_SECONDS * 2**attempts)
        received = _sha256(part)
        if received != sha256:
            part.unlink()
            raise ClientError(
                f"The download of {path} has sha256 {received}, the server announced {sha256}. Try again."
            )
        part.replace(target)


@contextlib.contextmanager
def _held(part: Path) -> Iterator[None]:
    """Keep other processes from writing into the same file. Raises ClientError where one does."""
    with part.open("ab") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ClientError(
                f"Another process is downloading to {part}. Let it end, or name another folder."
            ) from error
        yield


def _fetch_rest(http: httpx.Client, path: str, part: Path, offset: int) -> str | None:
    """Append what is missing to `part`, as far as the connection lasts; return what broke it, if anything did."""
    # `identity`: a compressed transfer would make the offsets mean something else.
    headers = {"Range": f"bytes={offset}-", "Accept-Encoding": "identity"}
    try:
        with http.stream("GET", path, headers=headers) as response:
            if response.status_code in TRANSIENT:
                response.read()
                return str(error_of(response))
            if response.status_code not in (httpx.codes.OK, httpx.codes.PARTIAL_CONTENT):
                raise ClientError(f"GET {path} answered {response.status_code}.")
            # A plain 200 is the whole file again, whatever was asked.
            is_rest = response.status_code == httpx.codes.PARTIAL_CONTENT
            with part.open("ab" if is_rest else "wb") as file:
                for piece in response.iter_raw():
                    file.write(piece)
    except httpx.TransportError as error:
        return str(error) or type(error).__name__
    return None


def unpack(archive: Path, folder: Path, *, limit_bytes: int = 16 * 1024**3) -> int:
    """Unpack the student that a .tar.gz holds as `folder`, which appears whole and proved, or not at all.

    Links, devices and paths that lead out of it are refused, and more than `limit_bytes` too; so is a `folder` that has
    come to hold something. Returns how many files its manifest proved.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{folder.name}-", dir=folder.parent) as aside:
        top = _unpack_top(archive, Path(aside), limit_bytes)
        count = verify(top)
        try:
            top.rename(folder)
        except OSError as error:
            raise PlaceTaken(
                f"{folder} holds something by now, which is left as it is ({error.strerror}). The student is in "
                f"{archive}."
            ) from error
    return count


def _unpack_top(archive: Path, aside: Path, limit_bytes: int) -> Path:
    total_bytes = 0
    with tarfile.open(archive, "r:gz") as tar:
        for member in tar:
            name = PurePosixPath(member.name)
            if name.is_absolute() or ".." in name.parts or not (member.isfile() or member.isdir()):
                raise ClientError(f"{archive.name} holds {member.name!r}, which is not a plain file inside it.")
            total_bytes += member.size
            if total_bytes > limit_bytes:
                raise ClientError(f"{archive.name} unpacks to more than {limit_bytes} bytes.")
            _write_member(tar, member, aside.joinpath(*name.parts))
    tops = list(aside.iterdir())
    if len(tops) != 1 or not tops[0].is_dir():
        raise ClientError(f"{archive.name} should hold one folder, it holds {len(tops)} entries.")
    return tops[0]


def _write_member(tar: tarfile.TarFile, member: tarfile.TarInfo, path: Path) -> None:
    source = tar.extractfile(member)
    if source is None:  # a folder
        path.mkdir(parents=True, exist_ok=True)
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    with source, path.open("xb") as file:
        shutil.copyfileobj(source, file)


def verify(folder: Path) -> int:
    """Compare every file of the student with its `manifest.json`, both ways; return how many were right."""
    listed = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))["files"]
    expected = {entry["path"]: entry["sha256"] for entry in listed}
    found = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    if odd := sorted(found ^ {*expected, "manifest.json"}):
        raise ClientError(f"The student and its manifest do not name the same files: {', '.join(odd)}.")
    for name, sha256 in expected.items():
        if _sha256(folder / name) != sha256:
            raise ClientError(f"{name} does not have the sha256 that manifest.json gives.")
    return len(expected)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
