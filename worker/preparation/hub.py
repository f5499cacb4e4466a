"""A teacher from a model hub: only its configuration, safetensors and tokenizer are ever downloaded."""

import glob
import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from worker.preparation.errors import PreparationFailed, Tick, no_tick
from worker.preparation.teacher_checks import check_family, read_config
from worker.preparation.teacher_files import CONFIG, choose_files

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

Answer = TypeVar("Answer")


class _HubUnreachable(Exception):
    """The hub did not answer, or answered that it has troubles of its own: worth another try."""


def download_teacher(
    repo: str, revision: str, folder: Path, *, endpoint: str, token: str | None, tick: Tick = no_tick
) -> str:
    """Download the teacher's files into `folder`; returns the commit that `revision` stood for.

    What the repository's list of files and its config.json rule out is refused before any weights move.
    No token but the one given is used, whatever the machine has stored for its user.
    """
    hub = _Hub(repo, revision, endpoint, token, tick)
    commit, names = hub.list_files()
    chosen = choose_files(names, place=f"{repo} at revision {revision}")
    # In a folder of its own: the library is content with whatever lies in a folder that is not empty.
    probe = folder.with_name(f"{folder.name}.config")
    hub.fetch(commit, [CONFIG], probe)
    check_family(read_config(probe))
    shutil.rmtree(probe)
    hub.fetch(commit, chosen, folder)
    return commit


class _Hub:
    def __init__(self, repo: str, revision: str, endpoint: str, token: str | None, tick: Tick) -> None:
        self._repo = repo
        self._revision = revision
        self._endpoint = endpoint.rstrip("/")
        self._token: str | bool = token or False
        self._tick = tick

    def list_files(self) -> tuple[str, list[str]]:
        api = HfApi(endpoint=self._endpoint, token=self._token)

        def ask() -> tuple[str, list[str]]:
            info = api.model_info(self._repo, revision=self._revision, timeout=REQUEST_TIMEOUT_SECONDS)
            return info.sha or self._revision, [file.rfilename for file in info.siblings or []]

        return self._patiently(ask)

    def fetch(self, commit: str, names: list[str], folder: Path) -> None:
        def download() -> None:
            # Emptied for every try: see download_teacher.
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
            self._tick()
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
            raise _HubUnreachable(f"{type(error).__name__}: {error}") from None

    def _not_found(self, what: str) -> PreparationFailed:
        return PreparationFailed(
            "teacher_hub_not_found", f"{self._repo} at revision {self._revision} on {self._endpoint} {what}."
        )
