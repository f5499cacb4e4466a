"""Entries of the cache from one job to the next: kept while they are used, and never in a job's way."""

import json
import os
import time
from pathlib import Path

import pytest

from app.storage import keys
from tests.worker.conftest import Bench

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
