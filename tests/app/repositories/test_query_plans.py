"""What PostgreSQL does for the queries that run all the time, with many rows in the tables, and SQLite for a page.

Each has to read about as many rows as it gives back, whatever there is besides.
"""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pytest
from sqlalchemy import Engine, event, text
from sqlalchemy.orm import Session

from app.db import migrate
from app.db.session import get_engine, read_session, write_session
from app.domain.ids import new_id
from app.repositories import events, jobs, leases
from app.repositories.pages import encode_cursor
from app.settings import Settings, get_settings
from tests.fixtures.database import new_postgres_database
from tests.fixtures.factories import add_job

JOBS = 40_000
# Most have succeeded; a few of each other status lie among them, at all ages. All of one teacher and dataset are old.
FILL = """
INSERT INTO jobs (id, status, teacher_id, dataset_id, student, method, training, baselines, metadata, last_metrics,
                  attempt, fruitless_attempts, progress, event_sequence, priority, run_seconds, created_at, queued_at)
SELECT 'job_' || lpad(n::text, 26, '0'),
       CASE n % 1000 WHEN 0 THEN 'queued' WHEN 1 THEN 'running' WHEN 2 THEN 'failed' WHEN 3 THEN 'cancelled'
                     ELSE 'succeeded' END,
       CASE WHEN n <= 4000 THEN 'tch_old' WHEN n % 4000 = 1 THEN 'tch_rare' ELSE 'tch_demo' END,
       CASE WHEN n <= 4000 THEN 'dts_old' WHEN n % 4000 = 1 THEN 'dts_rare' ELSE 'dts_demo' END, '{}', '{}', '{}', '[]',
       jsonb_build_object('team', 'team-' || n % 7, 'run', n::text), '{}', 1, 0, 0, 5, n % 3, 0,
       timestamptz '2026-01-01' + n * interval '1 second', timestamptz '2026-01-01' + n * interval '1 second'
FROM generate_series(1, :count) AS n
"""
FILL_EVENTS = """
INSERT INTO job_events (job_id, sequence, type, payload, created_at)
SELECT id, sequence, 'round', '{}', created_at FROM jobs, generate_series(1, 5) AS sequence
"""
# One job goes on and on.
LONG_JOB = f"job_{JOBS // 2:026}"
FILL_LONG_JOB = """
INSERT INTO job_events (job_id, sequence, type, payload, created_at)
SELECT :job_id, sequence, 'round', '{}', now() FROM generate_series(6, 20000) AS sequence
"""


@dataclass(frozen=True, repr=False)
class Plan:
    """How a statement was executed."""

    nodes: list[dict[str, Any]]

    @property
    def indexes(self) -> set[str]:
        return {node["Index Name"] for node in self.nodes if "Index Name" in node}

    @property
    def rows_read(self) -> float:
        """The rows that the busiest step went through, kept or not."""
        removed = ("Rows Removed by Filter", "Rows Removed by Index Recheck", "Rows Removed by Join Filter")
        return max(
            node["Actual Loops"] * (node["Actual Rows"] + sum(node.get(name, 0) for name in removed))
            for node in self.nodes
        )

    def __repr__(self) -> str:
        return "\n".join(
            f"{node['Node Type']} {node.get('Index Name', '')} {node['Actual Rows']}" for node in self.nodes
        )


@pytest.fixture(scope="module")
def crowded(postgres: str, tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """A database with many jobs and events, as a service has it after years; nothing in it is changed."""
    url = new_postgres_database(postgres, "query_plans")
    settings = Settings(home=tmp_path_factory.mktemp("query-plans"), database_url=url)
    migrate.upgrade(settings)
    with write_session(settings) as session:
        session.execute(text(FILL), {"count": JOBS})
        session.execute(text(FILL_EVENTS))
        session.execute(text(FILL_LONG_JOB), {"job_id": LONG_JOB})
        session.execute(text("UPDATE jobs SET event_sequence = 20000 WHERE id = :job_id"), {"job_id": LONG_JOB})
    with get_engine(settings).connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(text("VACUUM ANALYZE"))
    return settings


def plan_of(settings: Settings, act: Callable[[Session], Any], *, table: str = "jobs") -> Plan:
    """How the last statement of `act` on the table is executed; what `act` changes is undone."""
    with read_session(settings) as session:
        with noted_statements(get_engine(settings)) as seen:
            act(session)
        statement, parameters = [item for item in seen if f" {table}" in item[0]][-1]
        # The planner's choice is for these values, and not for any.
        session.connection().exec_driver_sql("SET LOCAL plan_cache_mode = force_custom_plan")
        rows = session.connection().exec_driver_sql(f"EXPLAIN (ANALYZE, FORMAT JSON) {statement}", parameters)
        found = rows.scalar_one()
    parsed = found if isinstance(found, list) else json.loads(found)
    return Plan(list(_nodes(parsed[0]["Plan"])))


@contextmanager
def noted_statements(engine: Engine) -> Iterator[list[tuple[str, Any]]]:
    """What is executed in the block, with its parameters."""
    seen: list[tuple[str, Any]] = []

    def note(_connection: Any, _cursor: Any, statement: str, parameters: Any, *_: Any) -> None:
        seen.append((statement, parameters))

    event.listen(engine, "before_cursor_execute", note)
    try:
        yield seen
    finally:
        event.remove(engine, "before_cursor_execute", note)


def _nodes(node: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield node
    for child in node.get("Plans", []):
        yield from _nodes(child)


def cursor(number: int, settings: Settings) -> str:
    """The cursor behind a job of the middle of the list."""
    with read_session(settings) as session:
        job = jobs.get(session, f"job_{number:026}")
    assert job is not None
    return encode_cursor(job.created_at, job.id)


class TestListJobs:
    def test_reads_a_page_from_the_index(self, crowded: Settings) -> None:
        plan = plan_of(crowded, lambda session: jobs.list_page(session, limit=20))
        assert plan.rows_read <= 21, plan
        assert plan.indexes == {"ix_jobs_created_at_id"}

    def test_reads_a_deep_page_as_quickly(self, crowded: Settings) -> None:
        after = cursor(JOBS // 100, crowded)
        plan = plan_of(crowded, lambda session: jobs.list_page(session, limit=20, after=after))
        assert plan.rows_read <= 21, plan
        assert plan.indexes == {"ix_jobs_created_at_id"}

    @pytest.mark.parametrize("status", ["queued", "running", "succeeded", "paused"])
    @pytest.mark.parametrize("is_deep", [False, True])
    def test_reads_one_status_from_its_index(self, crowded: Settings, status: str, is_deep: bool) -> None:
        after = cursor(JOBS // 2, crowded) if is_deep else None
        plan = plan_of(crowded, lambda session: jobs.list_page(session, limit=10, after=after, statuses=[status]))
        assert plan.rows_read <= 1100, plan

    @pytest.mark.parametrize(
        "statuses", [["queued", "running"], ["failed", "cancelled", "succeeded"], ["paused", "pausing"]]
    )
    @pytest.mark.parametrize("is_deep", [False, True])
    def test_reads_several_statuses(self, crowded: Settings, statuses: list[str], is_deep: bool) -> None:
        after = cursor(JOBS // 2, crowded) if is_deep else None
        plan = plan_of(crowded, lambda session: jobs.list_page(session, limit=10, after=after, statuses=statuses))
        assert plan.rows_read <= 100, plan

    @pytest.mark.parametrize(
        ("filters", "middle"),
        [
            ({"teacher_id": "tch_demo"}, 20_000),
            ({"teacher_id": "tch_old"}, 2_000),
            ({"teacher_id": "tch_rare"}, 20_001),
            ({"dataset_id": "dts_demo"}, 20_000),
            ({"dataset_id": "dts_old"}, 2_000),
            ({"dataset_id": "dts_rare"}, 20_001),
        ],
    )
    @pytest.mark.parametrize("is_deep", [False, True])
    def test_reads_those_of_a_teacher_or_a_dataset(
        self, crowded: Settings, filters: dict[str, Any], middle: int, is_deep: bool
    ) -> None:
        """Harm: the jobs of a teacher that is no longer in use are looked for among all that came after them."""
        after = cursor(middle, crowded) if is_deep else None
        plan = plan_of(crowded, lambda session: jobs.list_page(session, limit=20, after=after, **filters))
        assert plan.rows_read <= 30, plan

    @pytest.mark.parametrize("is_deep", [False, True])
    def test_reads_those_of_a_teacher_and_a_dataset_among_those_of_one(self, crowded: Settings, is_deep: bool) -> None:
        after = cursor(2_000, crowded) if is_deep else None
        both: dict[str, Any] = {"teacher_id": "tch_old", "dataset_id": "dts_old"}
        plan = plan_of(crowded, lambda session: jobs.list_page(session, limit=20, after=after, **both))
        assert plan.rows_read <= 4_000, plan

    def test_finds_a_common_label_on_the_way(self, crowded: Settings) -> None:
        plan = plan_of(crowded, lambda session: jobs.list_page(session, limit=20, metadata={"team": "team-3"}))
        assert plan.rows_read <= 200, plan

    def test_finds_a_rare_label(self, crowded: Settings) -> None:
        plan = plan_of(crowded, lambda session: jobs.list_page(session, limit=20, metadata={"run": "17"}))
        assert plan.rows_read <= 200, plan


@pytest.mark.usefixtures("sqlite_database")
class TestListJobsOnSqlite:
    @pytest.mark.parametrize("column", ["teacher_id", "dataset_id"])
    @pytest.mark.parametrize("is_deep", [False, True])
    def test_reads_those_of_a_teacher_or_a_dataset_in_order(self, column: str, is_deep: bool) -> None:
        """Harm: for each page all jobs of the teacher are read and sorted."""
        add_job()
        after = None
        with read_session() as session:
            if is_deep:
                [job] = jobs.list_page(session).rows
                after = encode_cursor(job.created_at, job.id)
            with noted_statements(get_engine(get_settings())) as seen:
                jobs.list_page(session, after=after, **{column: "an id"})
            statement, parameters = seen[-1]
            rows = session.connection().exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", parameters)
            [step] = [row.detail for row in rows]
        assert f"USING INDEX ix_jobs_{column}_created_at_id" in step
        assert ("created_at" in step.partition("(")[2]) == is_deep


class TestGetJobs:
    def test_reads_the_rows_asked_for(self, crowded: Settings) -> None:
        job_ids = [f"job_{number:026}" for number in range(1, JOBS, JOBS // 100)]
        plan = plan_of(crowded, lambda session: jobs.list_by_ids(session, [*job_ids, new_id("job")]))
        assert plan.rows_read <= len(job_ids) + 1, plan
        assert plan.indexes == {"pk_jobs"}


class TestClaim:
    def test_reads_the_most_urgent_job_from_its_index(self, crowded: Settings) -> None:
        plan = plan_of(
            crowded, lambda session: leases.claim_next(session, worker_name="w", lease_seconds=30), table="jobs SET"
        )
        assert "ix_jobs_claim" in plan.indexes
        assert plan.rows_read <= 3, plan


class TestListNews:
    @pytest.mark.parametrize("after", [5, 3])
    def test_reads_for_many_listeners_what_is_new(self, crowded: Settings, after: int) -> None:
        places = [(f"job_{number:026}", after) for number in range(1, JOBS, JOBS // 300)]
        places += [(LONG_JOB, 19_999), (LONG_JOB, 20_000), (new_id("job"), 1)]
        plan = plan_of(crowded, lambda session: events.list_news(session, places, limit=10))
        # The old events of the long job are not among them.
        assert plan.rows_read <= 3 * len(places), plan
        assert plan.indexes == {"pk_jobs", "pk_job_events"}

    def test_takes_the_greatest_sequence_there_is(self, crowded: Settings) -> None:
        """Harm: the end of its page is no number of 32 bits, and of the others in the statement none is served either.

        Only with many rows: to look into the index, PostgreSQL needs that end before it has met any row.
        """
        places = [(LONG_JOB, 2**31 - 1), (LONG_JOB, 19_999)]
        with read_session(crowded) as session:
            found = events.list_news(session, places, limit=10)
        assert [len(found[place].events) for place in places] == [0, 1]
