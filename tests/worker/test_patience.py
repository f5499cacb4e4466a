"""What is asked again, what is not, and when it ends."""

import errno

import obstore.exceptions
import pytest
import sqlalchemy.exc

from app.storage.store import ObjectMissing
from worker import patience
from worker.patience import DatabaseUnreachable, DiskFull, StorageUnavailable, patiently

UNREACHABLE = sqlalchemy.exc.OperationalError(None, None, ConnectionRefusedError())
AWAY = sqlalchemy.exc.OperationalError("SELECT 1", {}, Exception("the database system is starting up"))


class Flaky:
    """Raises the errors in turn, then answers."""

    def __init__(self, *errors: Exception) -> None:
        self.errors = list(errors)
        self.calls = 0

    def __call__(self) -> str:
        self.calls += 1
        if self.errors:
            raise self.errors.pop(0)
        return "answer"


class Clock:
    """Moves when it is told to, and by what is slept."""

    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patience, "FIRST_PAUSE_SECONDS", 0.01)


def nobody_minds() -> None:
    pass


class TestPatiently:
    @pytest.mark.parametrize("error", [AWAY, obstore.exceptions.GenericError("503"), ConnectionResetError()])
    def test_asks_again_while_the_other_side_has_troubles(self, error: Exception) -> None:
        flaky = Flaky(error, error)
        assert patiently(flaky, what="asking", check=nobody_minds) == "answer"
        assert flaky.calls == 3

    @pytest.mark.parametrize(
        "error",
        [ValueError("wrong"), ObjectMissing("key"), sqlalchemy.exc.IntegrityError("INSERT", {}, Exception("twice"))],
    )
    def test_passes_on_what_asking_again_cannot_cure(self, error: Exception) -> None:
        flaky = Flaky(error)
        with pytest.raises(type(error)):
            patiently(flaky, what="asking", check=nobody_minds)
        assert flaky.calls == 1

    def test_a_full_disk_is_no_trouble_that_passes(self) -> None:
        flaky = Flaky(OSError(errno.ENOSPC, "No space left on device"))
        with pytest.raises(DiskFull):
            patiently(flaky, what="asking", check=nobody_minds)
        assert flaky.calls == 1

    def test_gives_up_in_the_end_and_says_what_failed(self) -> None:
        with pytest.raises(StorageUnavailable, match=r"fetching x failed .* starting up"):
            patiently(Flaky(*[AWAY] * 50), what="fetching x", check=nobody_minds, patience_seconds=0.1)

    def test_counts_from_the_first_failure(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Harm: a big file that has flowed for longer than the patience is given up at its first hiccup, and with it
        the job that took hours."""
        clock = Clock()
        monkeypatch.setattr(patience, "time", clock)
        flaky = Flaky(ConnectionResetError())

        def transfer() -> str:
            clock.now += 660.0
            return flaky()

        assert patiently(transfer, what="storing x", check=nobody_minds) == "answer"
        assert flaky.calls == 2

    @pytest.mark.parametrize(
        ("error", "expected"),
        [
            (UNREACHABLE, DatabaseUnreachable),
            (AWAY, StorageUnavailable),
            (obstore.exceptions.GenericError("503"), StorageUnavailable),
        ],
    )
    def test_tells_a_database_that_cannot_be_reached_from_the_rest(
        self, error: Exception, expected: type[Exception]
    ) -> None:
        with pytest.raises(StorageUnavailable) as raised:
            patiently(Flaky(*[error] * 50), what="asking", check=nobody_minds, patience_seconds=0.1)
        assert raised.type is expected

    def test_what_is_worth_a_try_may_not_be_worth_another(self) -> None:
        flaky = Flaky(AWAY)

        def not_again() -> None:
            raise KeyError("superseded")

        with pytest.raises(KeyError):
            patiently(flaky, what="asking", check=nobody_minds, check_again=not_again)
        assert flaky.calls == 1
        assert patiently(flaky, what="asking", check=nobody_minds, check_again=not_again) == "answer"

    def test_stops_as_soon_as_nobody_wants_the_answer(self) -> None:
        flaky = Flaky(*[AWAY] * 50)

        def check() -> None:
            if flaky.calls == 3:
                raise KeyError("cancelled")

        with pytest.raises(KeyError):
            patiently(flaky, what="asking", check=check)
        assert flaky.calls == 3
