from functools import partial

import pytest

from app.db.session import read_session, write_session
from app.domain.ids import new_id
from app.errors import LeaseLost
from app.repositories import datasets, imports, jobs
from tests.fixtures.factories import add_dataset, claimed, read_dataset, ready_dataset
from tests.fixtures.racing import race

pytestmark = pytest.mark.usefixtures("database")


class TestCreate:
    def test_waits_for_a_worker(self) -> None:
        upload = {"split": "train", "filename": "rows.csv", "object_key": "k", "size_bytes": 9, "sha256": "s"}
        dataset = read_dataset(add_dataset(uploads=[upload], label_column="intent"))
        assert (dataset.status, dataset.uploads, dataset.label_column) == ("pending", [upload], "intent")
        assert (dataset.rows, dataset.labels, dataset.files) == (None, None, None)


class TestListPage:
    def test_gives_newest_first(self) -> None:
        made = [add_dataset() for _ in range(3)]
        with read_session() as session:
            page = datasets.list_page(session, limit=2)
            rest = datasets.list_page(session, limit=2, after=page.next)
        assert [row.id for row in [*page.rows, *rest.rows]] == made[::-1]

    def test_filters_by_status(self) -> None:
        add_dataset()
        claim = claimed()
        add_dataset()
        ready_dataset(claim)
        with read_session() as session:
            assert [row.id for row in datasets.list_page(session, statuses=["ready"]).rows] == [claim.id]


class TestMarkReady:
    def test_records_what_the_checks_found(self) -> None:
        dataset_id = add_dataset()
        ready_dataset(claimed(), warnings=["3 rows of test also stand in train"])
        dataset = read_dataset(dataset_id)
        assert (dataset.status, dataset.rows, dataset.labels) == (
            "ready",
            {"train": 8, "validation": 2},
            ["no", "yes"],
        )
        assert dataset.is_validation_made is True
        assert dataset.warnings == ["3 rows of test also stand in train"]
        assert (dataset.run_token, dataset.lease_expires_at) == (None, None)
        assert dataset.finished_at is not None

    def test_happens_once(self) -> None:
        dataset_id = add_dataset()
        claim = claimed()
        ready_dataset(claim)
        with pytest.raises(LeaseLost):
            ready_dataset(claim, labels=["other"])
        assert read_dataset(dataset_id).labels == ["no", "yes"]


class TestMarkFailed:
    def test_records_why(self) -> None:
        dataset_id = add_dataset()
        claim = claimed()
        with write_session() as session:
            imports.mark_failed(session, claim, code="dataset_empty", message="rows.csv has no rows")
        dataset = read_dataset(dataset_id)
        assert (dataset.status, dataset.error_code, dataset.error_message) == (
            "failed",
            "dataset_empty",
            "rows.csv has no rows",
        )


class TestRemove:
    def test_says_whether_there_was_one(self) -> None:
        dataset_id = add_dataset()
        with write_session() as session:
            assert imports.remove(session, "dataset", dataset_id)
        with write_session() as session:
            assert not imports.remove(session, "dataset", dataset_id)

    def test_cannot_cross_with_a_job_that_starts_to_use_it(self) -> None:
        """Whoever locks the dataset first decides: never is there a job without its dataset."""
        for _ in range(5):
            used, removed = race(2, partial(_use_or_remove, add_dataset()))
            assert used is not removed


def _use_or_remove(dataset_id: str, number: int) -> bool:
    with write_session() as session:
        if datasets.lock(session, dataset_id) is None:
            return False
        if number == 1:
            return not jobs.live_using(session, dataset_id=dataset_id) and imports.remove(
                session, "dataset", dataset_id
            )
        jobs.create(
            session,
            job_id=new_id("job"),
            teacher_id="tch_demo",
            dataset_id=dataset_id,
            student={},
            method={},
            training={},
        )
        return True
