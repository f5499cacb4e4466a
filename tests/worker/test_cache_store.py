"""Entries of the cache from one job to the next: kept while they are used, and never in a job's way."""

import hashlib
import json
import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from obstore.exceptions import GenericError

from app.storage import keys
from app.storage.store import ObjectStore
from tests.fixtures.factories import add_job, claimed
from tests.worker.conftest import Bench
from worker import cache_store
from worker.distill.cache_keys import TEACHER_OUTPUTS, TUNED_TEACHERS
from worker.lease_keeper import LeaseKeeper
from worker.observation import observed
from worker.work import Work

DAY_SECONDS = 24 * 3600.0


@pytest.fixture
def inputs(local_bench: Bench) -> tuple[str, str]:
    return local_bench.ready_inputs()


def run_job(bench: Bench, inputs: tuple[str, str]) -> bool:
    """Run a job on these inputs to its success; whether it found in the cache what it would else compute."""
    job_id = bench.add_job(inputs)
    bench.run("student")
    assert bench.job(job_id).status == "succeeded"
    return "warning" in [event["type"] for event in bench.events(job_id)]


def index_of(bench: Bench) -> Path:
    """The file of the one entry's index."""
    folder = bench.store.folder
    assert folder is not None
    (key,) = [key for key in bench.objects("cache") if key.endswith(keys.CACHE_INDEX)]
    return folder / key


class TestUse:
    def test_is_noted_once_a_day(self, local_bench: Bench, inputs: tuple[str, str]) -> None:
        """Harm: an entry that every job takes is cleared away by its age, or each of them writes its index anew."""
        assert not run_job(local_bench, inputs)
        index = index_of(local_bench)
        content, now = index.read_bytes(), time.time()
        os.utime(index, times=(now - 2 * DAY_SECONDS, now - 2 * DAY_SECONDS))

        assert run_job(local_bench, inputs)
        noted = index.stat().st_mtime_ns
        assert noted / 1e9 > now - DAY_SECONDS
        assert run_job(local_bench, inputs)
        assert index.stat().st_mtime_ns == noted
        assert index.read_bytes() == content


class TestTornIndex:
    def test_costs_a_computation_and_no_job(self, local_bench: Bench, inputs: tuple[str, str]) -> None:
        assert not run_job(local_bench, inputs)
        index = index_of(local_bench)
        content = index.read_bytes()
        index.write_text('{"files": [')

        assert not run_job(local_bench, inputs)
        assert json.loads(index.read_bytes()) == json.loads(content)
        assert run_job(local_bench, inputs)


class OvertakenStore(ObjectStore):
    """A folder that has somebody else at work when it is first asked to take a file: before it takes it, or after."""

    def __init__(self, url: str, overtake: Callable[[], None], *, is_before: bool) -> None:
        super().__init__(url)
        self._overtake: Callable[[], None] | None = overtake
        self._is_before = is_before

    def put_file(self, key: str, path: Path) -> int:
        overtake, self._overtake = self._overtake, None
        if overtake and self._is_before:
            overtake()
        size = super().put_file(key, path)
        if overtake and not self._is_before:
            overtake()
        return size


class TestTwoThatStoreTheSame:
    @pytest.mark.parametrize("is_before", [True, False])
    def test_leave_one_whole_entry_the_first(self, local_bench: Bench, tmp_path: Path, is_before: bool) -> None:
        """Harm: the index of one names the bytes of the other, so that the next job finds the entry damaged, and a
        teacher is tuned again for hours."""
        add_job()
        claim, settings, shutdown = claimed(lease_seconds=60), local_bench.settings, local_bench.shutdown
        for name in ("first", "second"):
            (tmp_path / name).mkdir()
            (tmp_path / name / "weights.bin").write_text(name)
        with observed(claim) as seen, LeaseKeeper(claim, settings, shutdown) as keeper:
            work = Work(claim, settings, local_bench.store, keeper, shutdown, tmp_path, seen)

            def store(work: Work, name: str) -> None:
                cache_store.store_entry(work, TUNED_TEACHERS, "key", tmp_path / name, check=keeper.check)

            slow = OvertakenStore(settings.object_store_url, lambda: store(work, "first"), is_before=is_before)
            store(Work(claim, settings, slow, keeper, shutdown, tmp_path, seen), "second")
            entries = [(TUNED_TEACHERS, "key")]
            assert cache_store.fetch_entries(work, entries, tmp_path / "cache") == [TUNED_TEACHERS]
        assert (tmp_path / "cache" / TUNED_TEACHERS / "key" / "weights.bin").read_text() == "first"
        # Nothing else is left: no row and no sweep knows of it.
        assert len(local_bench.objects("cache")) == 2


class TestEntryOfAnOlderRelease:
    def test_is_found_under_the_names_of_its_files(self, local_bench: Bench, tmp_path: Path) -> None:
        """Harm: every teacher is tuned again after an upgrade."""
        add_job()
        claim, settings, shutdown = claimed(lease_seconds=60), local_bench.settings, local_bench.shutdown
        content = b"weights"
        file = {"path": "weights.bin", "size_bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
        local_bench.store.put_bytes(keys.cache_file(TUNED_TEACHERS, "key", "weights.bin"), content)
        index = json.dumps({"files": [file]}).encode()
        local_bench.store.put_bytes(keys.cache_file(TUNED_TEACHERS, "key", keys.CACHE_INDEX), index)
        with observed(claim) as seen, LeaseKeeper(claim, settings, shutdown) as keeper:
            work = Work(claim, settings, local_bench.store, keeper, shutdown, tmp_path, seen)
            entries = [(TUNED_TEACHERS, "key")]
            assert cache_store.fetch_entries(work, entries, tmp_path / "cache") == [TUNED_TEACHERS]
        assert (tmp_path / "cache" / TUNED_TEACHERS / "key" / "weights.bin").read_bytes() == content


class HaltingStore(ObjectStore):
    """A folder that has no answer when it is first asked for an object."""

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self._asked = set[str]()

    def get_bytes(self, key: str) -> bytes:
        if key not in self._asked:
            self._asked.add(key)
            raise GenericError("503")
        return super().get_bytes(key)


class TestStoreThatIsAway:
    def test_is_waited_for_where_a_tuned_teacher_is_to_be_fetched(
        self, local_bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Harm: a teacher is tuned again for hours because the store was away for a minute."""
        add_job()
        claim, settings, shutdown = claimed(lease_seconds=60), local_bench.settings, local_bench.shutdown
        entries = [(TEACHER_OUTPUTS, "key"), (TUNED_TEACHERS, "key")]
        (tmp_path / "entry").mkdir()
        (tmp_path / "entry" / "weights.bin").write_text("weights")
        with observed(claim) as seen, LeaseKeeper(claim, settings, shutdown) as keeper:
            work = Work(claim, settings, local_bench.store, keeper, shutdown, tmp_path, seen)
            for kind, key in entries:
                cache_store.store_entry(work, kind, key, tmp_path / "entry", check=keeper.check)
            monkeypatch.setattr(cache_store, "PATIENCE_SECONDS", 0.0)
            halting = HaltingStore(settings.object_store_url)
            work = Work(claim, settings, halting, keeper, shutdown, tmp_path, seen)
            assert cache_store.fetch_entries(work, entries, tmp_path / "cache") == [TUNED_TEACHERS]
        assert (tmp_path / "cache" / TUNED_TEACHERS / "key" / "weights.bin").read_text() == "weights"
