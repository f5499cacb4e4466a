"""An import that ends in the middle of its rows: nothing of it stays, and the row is somebody else's."""

from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy import update

from app.db.models import Dataset
from app.db.session import write_session
from tests.fixtures.factories import claim_next, claimed
from tests.worker.conftest import Bench, wait_for
from tests.worker.test_observation import ATTEMPTS
from worker import imports
from worker.preparation.datasets import PreparedDataset
from worker.preparation.errors import Tick
from worker.runner import run_claim

# More than are read at a time.
CSV = b"text,label\n" + b"".join(b"row %d,%s\n" % (number, b"ab"[number % 2 :][:1]) for number in range(50_000))
Since = Callable[..., float]


@pytest.fixture
def between_rows(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[], object]], None]:
    """Has something done between a dataset's rows, whose next ones do not come before the import has noticed."""
    prepare = imports.prepare_dataset

    def do(act: Callable[[], object]) -> None:
        def prepare_and_act(*uploads: Any, tick: Tick, **options: Any) -> PreparedDataset:
            def act_and_tick() -> None:
                act()
                wait_for(tick)  # until it raises

            return prepare(*uploads, tick=act_and_tick, **options)

        monkeypatch.setattr(imports, "prepare_dataset", prepare_and_act)

    return do


def take_lease(dataset_id: str) -> None:
    with write_session() as session:
        taken = update(Dataset).where(Dataset.id == dataset_id)
        session.execute(taken.values(lease_expires_at=None, run_token="another"))


class TestInterruptedImport:
    def test_that_has_lost_its_lease_writes_nothing_more(
        self, local_bench: Bench, between_rows: Callable[[Callable[[], object]], None], since: Since
    ) -> None:
        dataset_id = local_bench.add_dataset({"train.csv": CSV})
        claim = claimed(lease_seconds=local_bench.settings.lease_seconds)
        between_rows(lambda: take_lease(dataset_id))
        run_claim(claim, local_bench.settings, local_bench.shutdown)
        row = local_bench.dataset(dataset_id)
        assert (row.status, row.run_token) == ("pending", "another")
        assert local_bench.objects(f"datasets/{dataset_id}/{claim.run_token}") == []
        assert list(local_bench.settings.work_dir.iterdir()) == []
        assert since(ATTEMPTS, kind="dataset", outcome="lost") == 1

    def test_of_a_worker_that_stops_is_handed_back(
        self, local_bench: Bench, between_rows: Callable[[Callable[[], object]], None], since: Since
    ) -> None:
        """Harm: a large upload holds a worker up until it is killed, and waits for its lease to run out."""
        dataset_id = local_bench.add_dataset({"train.csv": CSV})
        claim = claimed(lease_seconds=local_bench.settings.lease_seconds)
        between_rows(local_bench.shutdown.request)
        run_claim(claim, local_bench.settings, local_bench.shutdown)
        row = local_bench.dataset(dataset_id)
        assert (row.status, row.run_token) == ("pending", None)
        assert local_bench.objects(f"datasets/{dataset_id}/{claim.run_token}") == []
        assert list(local_bench.settings.work_dir.iterdir()) == []
        assert since(ATTEMPTS, kind="dataset", outcome="handed_back") == 1
        again = claim_next()
        assert again is not None
        assert again.id == dataset_id
