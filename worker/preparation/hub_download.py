"""A teacher from a model hub: only its configuration, safetensors and tokenizer are ever downloaded.

As a program, `python -m worker.preparation.hub_download`, it is what hub.py starts: the request is a line of JSON on
standard input, the answer one on standard output.
"""

import errno
import glob
import json
import os
import re
import shutil
import sys
import time
import traceback
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from app.domain.teacher_files import CONFIG, WEIGHTS_INDEX, WEIGHTS_SUFFIX
from worker.distill.parent import leave_only_with_parent
from worker.preparation.errors import PreparationFailed
from worker.preparation.safetensors_header import missing_part, read_index
from worker.preparation.teacher_checks import check_family, read_config
from worker.preparation.teacher_files import choose_files

# Read by the library when it is imported: no bars in a log, no news of ours to anybody.
os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
os.environ.setdefault("HF_HUB_DISABLE_UPDATE_CHECK", "1")

from huggingface_hub import HfApi, snapshot_download
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    HTTPError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

REQUEST_TIMEOUT_SECONDS = 30.0
RETRY_AFTER_SECONDS = (1.0, 3.0, 9.0)
# roberta-large takes 1.4 GB. A dozen times that is a model of another kind, and takes the disk from other work.
MAX_TEACHER_BYTES = 20 * 1024**3
# All but the weights is read into memory as a whole; the tokenizers of a hundred languages take some 20 MB.
MAX_JSON_BYTES = 200 * 1024**2

# The answer has to fit into a pipe that nobody reads before its end.
_TRACEBACK_CHARACTERS = 8_000
_NO_ROOM = {errno.ENOSPC, errno.EDQUOT}
_NO_ROOM_WORDS = re.compile(r"No space left on device|[Qq]uota exceeded \(os error")
Answer = TypeVar("Answer")


class _HubUnreachable(Exception):
    """The hub did not answer, or answered that it has troubles of its own: worth another try."""


def main() -> None:
    request = json.loads(sys.stdin.buffer.readline())
    leave_only_with_parent()
    # The line of the answer alone goes to standard output, whatever a library prints.
    output = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    with output:
        json.dump(_answer(request), output)


def _answer(request: dict[str, Any]) -> dict[str, Any]:
    try:
        return {"commit": fetch_teacher(**request | {"folder": Path(request["folder"])})}
    except PreparationFailed as failure:
        return {"code": failure.code, "message": failure.message}
    except Exception as error:
        trace = traceback.format_exc()[-_TRACEBACK_CHARACTERS:]
        if isinstance(error, OSError) and error.errno is not None:
            where = f": {error.filename}" if error.filename else ""
            return {"errno": error.errno, "error": f"{error.strerror}{where}", "traceback": trace}
        return {"errno": None, "error": _first_line(error), "traceback": trace}


def fetch_teacher(repo: str, revision: str, folder: Path, *, endpoint: str, token: str | None) -> str:
    """Download the teacher's files into `folder`; returns the commit that `revision` stood for.

    What the repository's list of files, its config.json and the index of its weights rule out is refused before any
    weights move. No token but the one given is used, whatever the machine has stored for its user.
    """
    hub = _Hub(repo, revision, endpoint, token)
    place = f"{repo} at revision {revision}"
    commit, sizes = hub.list_files()
    chosen = choose_files(sizes, place=place)
    _check_json_sizes(sizes, chosen, place)
    # In a folder of its own: the library is content with whatever lies in a folder that is not empty.
    probe = folder.with_name(f"{folder.name}.config")
    hub.fetch(commit, [name for name in chosen if name in (CONFIG, WEIGHTS_INDEX)], probe)
    check_family(read_config(probe))
    if WEIGHTS_INDEX in chosen:
        chosen = _without_other_parts(chosen, set(read_index(probe / WEIGHTS_INDEX).values()))
    shutil.rmtree(probe)
    _check_size(sizes, chosen, place)
    hub.fetch(commit, chosen, folder)
    return commit


def _check_json_sizes(sizes: Mapping[str, int], chosen: Sequence[str], place: str) -> None:
    for name in chosen:
        if not name.endswith(WEIGHTS_SUFFIX) and sizes[name] > MAX_JSON_BYTES:
            raise PreparationFailed(
                "teacher_too_large",
                f"{name} of {place} has {sizes[name]} bytes, more than the {MAX_JSON_BYTES} that anything but weights "
                "may have. Check that it is what its name says.",
            )


def _without_other_parts(chosen: Sequence[str], named: Collection[str]) -> list[str]:
    """The files without weights that the index does not name, such as those of another precision."""
    for part in sorted(named):
        if part not in chosen:
            raise missing_part(part)
    return [name for name in chosen if name in named or not name.endswith(WEIGHTS_SUFFIX)]


def _check_size(sizes: Mapping[str, int], chosen: Sequence[str], place: str) -> None:
    size_bytes = sum(sizes[name] for name in chosen)
    if size_bytes > MAX_TEACHER_BYTES:
        raise PreparationFailed(
            "teacher_too_large",
            f"The teacher's files in {place} have {size_bytes / 1024**3:.1f} GiB; a text encoder stays below "
            f"{MAX_TEACHER_BYTES / 1024**3:.0f} GiB. Choose a smaller model, or copy this one into one of "
            "STILLHOUSE_TEACHER_DIRS and give it as a folder.",
        )


class _Hub:
    def __init__(self, repo: str, revision: str, endpoint: str, token: str | None) -> None:
        self._repo = repo
        self._revision = revision
        self._endpoint = endpoint.rstrip("/")
        self._token: str | bool = token or False

    def list_files(self) -> tuple[str, dict[str, int]]:
        """The commit, and the size of each of its files."""
        api = HfApi(endpoint=self._endpoint, token=self._token)

        def ask() -> tuple[str, dict[str, int]]:
            info = api.model_info(
                self._repo, revision=self._revision, timeout=REQUEST_TIMEOUT_SECONDS, files_metadata=True
            )
            return info.sha or self._revision, {file.rfilename: file.size or 0 for file in info.siblings or []}

        return self._patiently(ask)

    def fetch(self, commit: str, names: list[str], folder: Path) -> None:
        def download() -> None:
            # Emptied for every try: see fetch_teacher.
            shutil.rmtree(folder, ignore_errors=True)
            snapshot_download(
                self._repo,
                revision=commit,
                local_dir=folder,
                cache_dir=folder / ".cache",
                allow_patterns=[glob.escape(name) for name in names],
                endpoint=self._endpoint,
                token=self._token,
                max_workers=4,
            )
            if missing := [name for name in names if not (folder / name).is_file()]:
                raise _HubUnreachable(f"{missing[0]} was listed but did not arrive")

        self._patiently(download)
        shutil.rmtree(folder / ".cache", ignore_errors=True)

    def _patiently(self, ask: Callable[[], Answer]) -> Answer:
        for pause in (*RETRY_AFTER_SECONDS, None):
            try:
                with self._explained():
                    return ask()
            except _HubUnreachable as error:
                if pause is None:
                    raise PreparationFailed(
                        "teacher_hub_unreachable",
                        f"{self._endpoint} did not serve {self._repo} at revision {self._revision} ({error}). "
                        "Check the worker's network and STILLHOUSE_HUB_ENDPOINT, or copy the model into one of "
                        "STILLHOUSE_TEACHER_DIRS and give it as a folder.",
                    ) from error
                time.sleep(pause)
        raise AssertionError("the last try returns or raises")

    @contextmanager
    def _explained(self) -> Iterator[None]:
        """Sort the library's errors: what asking again may cure, what it cannot, and what is ours."""
        try:
            yield
        except GatedRepoError:
            raise self._not_found(
                "is gated: accept its terms and give the worker a token that may read it in STILLHOUSE_HUB_TOKEN"
            ) from None
        except RevisionNotFoundError:
            raise self._not_found("has no such revision: name a branch, a tag or a commit that exists") from None
        except (RepositoryNotFoundError, HFValidationError):
            raise self._not_found(
                "does not exist, or is private and STILLHOUSE_HUB_TOKEN may not read it: check its name"
            ) from None
        except OfflineModeIsEnabled:
            raise _HubUnreachable("HF_HUB_OFFLINE is set in the worker's environment") from None
        except LocalEntryNotFoundError as error:
            raise _HubUnreachable(str(error.__cause__ or error).splitlines()[0]) from None
        except EntryNotFoundError as error:
            raise self._not_found(f"lost a file meanwhile ({str(error).splitlines()[0]})") from None
        except HfHubHTTPError as error:
            status = error.response.status_code
            if status in {401, 403}:
                raise self._not_found(f"may not be read (HTTP {status}): check STILLHOUSE_HUB_TOKEN") from None
            raise _HubUnreachable(f"HTTP {status}") from None
        except HTTPError as error:
            raise _HubUnreachable(_first_line(error)) from None
        except (OSError, RuntimeError, ValueError) as error:
            # What comes through from below the library: sockets, hf-xet, answers that are not the hub's.
            if _is_disk_full(error):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)) from error
            if isinstance(error, OSError) and error.filename is not None:
                raise  # about a file of this machine
            raise _HubUnreachable(_first_line(error)) from error

    def _not_found(self, what: str) -> PreparationFailed:
        return PreparationFailed(
            "teacher_hub_not_found", f"{self._repo} at revision {self._revision} on {self._endpoint} {what}."
        )


def _is_disk_full(error: Exception) -> bool:
    # hf-xet passes the kernel's words on as text.
    return (isinstance(error, OSError) and error.errno in _NO_ROOM) or bool(_NO_ROOM_WORDS.search(str(error)))


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0][:300]


if __name__ == "__main__":
    main()
