"""What every piece of claimed work is given, and the calls that all of them make."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from sqlalchemy.orm import Session

from app.db.session import read_session, write_session
from app.domain.files import StoredFile
from app.domain.leases import Claim
from app.repositories import events, jobs
from app.repositories.events import NewEvent
from app.repositories.fence import hold
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


class EventQueue:
    """Events of a claimed job on their way to the database, each of which is written once.

    Also where a commit is carried out and its answer lost: the next try looks first whether the last one's are there.
    Nobody else writes events of these types while the claim holds, so their types at their places tell.
    """

    def __init__(self, claim: Claim) -> None:
        self._claim = claim
        self._waiting: list[NewEvent] = []
        # Where the last try wrote, and how many: of a commit that may have happened.
        self._first = 0
        self._tried = 0

    def __bool__(self) -> bool:
        return bool(self._waiting)

    def append(self, event: NewEvent) -> None:
        self._waiting.append(event)

    def write(self, session: Session) -> None:
        """Add what waits; to be called again until `committed`. Raises LeaseLost."""
        if self._tried:
            # Locked before it is looked at: the last try may still be under way in the server.
            hold(session, self._claim)
            types = [event["type"] for event in self._waiting[: self._tried]]
            if events.are_there(session, self._claim.id, first=self._first, types=types):
                del self._waiting[: self._tried]
            self._tried = 0
        if self._waiting:
            last = jobs.add_events(session, self._claim, self._waiting)
            self._tried = len(self._waiting)
            self._first = last - self._tried + 1

    def committed(self) -> None:
        self._waiting.clear()
        self._tried = 0


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
