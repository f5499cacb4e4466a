"""What every piece of claimed work is given, and the calls that all of them make."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from sqlalchemy.orm import Session

from app.db.session import read_session, write_session
from app.domain.files import StoredFile
from app.domain.leases import Claim
from app.settings import Settings
from app.storage import keys
from app.storage.store import ObjectMissing, ObjectStore
from worker.files import file_sha256
from worker.lease_keeper import LeaseKeeper
from worker.observation import Observation
from worker.patience import patiently
from worker.stopping import Shutdown

Answer = TypeVar("Answer")
Check = Callable[[], None]


class DamagedObject(Exception):
    """A stored file is gone, or is not what was stored."""

    def __init__(self, key: str, what: str) -> None:
        super().__init__(f"the stored file {key} {what}")


@dataclass(frozen=True)
class Work:
    """One claim being worked on: its folder is empty at the start and gone at the end."""

    claim: Claim
    settings: Settings
    store: ObjectStore
    keeper: LeaseKeeper
    shutdown: Shutdown
    folder: Path
    seen: Observation

    def read(self, query: Callable[[Session], Answer]) -> Answer:
        """Run a query in a short session, again and again while the database is away."""

        def ask() -> Answer:
            with read_session(self.settings) as session:
                return query(session)

        return patiently(ask, what="reading from the database", check=self.keeper.check)

    def write(self, change: Callable[[Session], Answer], *, check: Check | None = None) -> Answer:
        """Run a fenced change in a short transaction, again and again while the database is away."""

        def ask() -> Answer:
            with write_session(self.settings) as session:
                return change(session)

        return patiently(ask, what="writing to the database", check=check or self.keeper.check)

    def conclude(self, change: Callable[[Session], Answer], *, check: Check | None = None) -> Answer:
        """Write how the work ended."""
        answer = self.write(change, check=check)
        self.keeper.conclude()
        return answer

    def upload(self, path: Path, key: str, *, check: Check | None = None, check_again: Check | None = None) -> None:
        patiently(
            lambda: self.store.put_file(key, path),
            what=f"storing {key}",
            check=check or self.keeper.check,
            check_again=check_again,
        )

    def upload_folder(
        self,
        folder: Path,
        prefix: str,
        files: Sequence[StoredFile],
        *,
        check: Check | None = None,
        check_again: Check | None = None,
    ) -> None:
        """Store `files` of `folder` under `prefix`. The checks are those of `patiently`, for each file."""
        for file in files:
            key = keys.inside(prefix, file["path"])
            self.upload(folder / file["path"], key, check=check, check_again=check_again)

    def download(self, key: str, path: Path, *, sha256: str) -> None:
        """Fetch an object; raises DamagedObject when it is gone or has another hash."""
        try:
            patiently(lambda: self.store.get_file(key, path), what=f"fetching {key}", check=self.keeper.check)
        except ObjectMissing:
            raise DamagedObject(key, "is gone") from None
        if file_sha256(path) != sha256:
            raise DamagedObject(key, "is damaged: its hash is not the one that was recorded")

    def download_folder(self, prefix: str, files: Sequence[StoredFile], folder: Path) -> None:
        """Fetch the files that a row lists under its prefix."""
        for file in files:
            path = folder / file["path"]
            if not path.resolve().is_relative_to(folder.resolve()):
                raise DamagedObject(file["path"], "lies outside its folder")
            self.download(keys.inside(prefix, file["path"]), path, sha256=file["sha256"])
