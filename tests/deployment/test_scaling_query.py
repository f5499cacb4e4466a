"""KEDA's query, sent as KEDA sends it, to a PostgreSQL that the migrations made."""

from typing import Any

import psycopg
import pytest
from sqlalchemy import update

from app.db.models import Dataset, Job, Teacher
from app.db.session import write_session
from app.domain.imports import ImportStatus
from app.domain.jobs import TERMINAL, JobStatus
from app.settings import get_settings
from tests.deployment.files import base_manifests, example_secret, of_kind
from tests.fixtures.factories import add_dataset, add_job, add_teacher, claimed

# What KEDA's postgresql scaler reads, besides the parts of a connection that is not given as one URL.
KNOWN_TO_KEDA = {"query", "targetQueryValue", "activationTargetQueryValue"}
# A worker is on it, or one should be.
WANT_A_WORKER = (JobStatus.QUEUED, JobStatus.RUNNING, JobStatus.PAUSING, JobStatus.CANCELLING)


def trigger() -> dict[str, Any]:
    (scaled,) = of_kind(base_manifests(), "ScaledObject").values()
    (found,) = scaled["spec"]["triggers"]
    return dict(found)


def wanted_workers() -> float:
    url = get_settings().database_url.replace("postgresql+psycopg://", "postgresql://")
    with psycopg.connect(url) as connection:
        ((number,),) = connection.execute(trigger()["metadata"]["query"]).fetchall()
    return float(number) / float(trigger()["metadata"]["targetQueryValue"])


def set_status(model: Any, row_id: str, status: str) -> None:
    with write_session() as session:
        session.execute(update(model).where(model.id == row_id).values(status=status))


class TestTrigger:
    def test_is_one_that_keda_understands(self) -> None:
        assert trigger()["type"] == "postgresql"
        assert set(trigger()["metadata"]) == KNOWN_TO_KEDA
        assert all(isinstance(value, str) for value in trigger()["metadata"].values())

    def test_connects_with_the_url_of_the_settings(self) -> None:
        authentication = of_kind(base_manifests(), "TriggerAuthentication")[trigger()["authenticationRef"]["name"]]
        (reference,) = authentication["spec"]["secretTargetRef"]
        assert reference == {
            "parameter": "connection",
            "name": "stillhouse-secrets",
            "key": "STILLHOUSE_DATABASE_URL",
        }
        # The one spelling that SQLAlchemy, our settings and KEDA's driver have in common.
        assert example_secret()["STILLHOUSE_DATABASE_URL"].startswith("postgresql://")


@pytest.mark.usefixtures("postgres_database")
class TestQuery:
    def test_gives_0_without_work(self) -> None:
        assert wanted_workers() == 0

    @pytest.mark.parametrize("status", JobStatus)
    def test_counts_a_job_that_wants_a_worker(self, status: JobStatus) -> None:
        set_status(Job, add_job(), status)
        assert wanted_workers() == (1 if status in WANT_A_WORKER else 0)

    def test_knows_every_status(self) -> None:
        """A new status has to be counted or left out on purpose; a paused job waits for a person."""
        assert {*WANT_A_WORKER, *TERMINAL, JobStatus.PAUSED} == set(JobStatus)

    @pytest.mark.parametrize("status", ImportStatus)
    def test_counts_datasets_and_teachers_until_they_are_judged(self, status: ImportStatus) -> None:
        set_status(Dataset, add_dataset(), status)
        set_status(Teacher, add_teacher(), status)
        assert wanted_workers() == (2 if status is ImportStatus.PENDING else 0)

    def test_stays_the_same_when_waiting_work_is_taken_up(self) -> None:
        """Harm: the worker that has just taken the last job would be scaled away."""
        for add in (add_dataset, add_teacher, add_job, add_job):
            add()
        assert wanted_workers() == 4
        for _ in range(3):
            claimed()
        assert wanted_workers() == 4
