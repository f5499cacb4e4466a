"""The short form of `make chaos`: a few jobs, each kind of fault that fits, and the proof that it would have told."""

import os
import subprocess
import sys
from pathlib import Path

import psycopg
import pytest
from rich.console import Console

from tests.chaos.check import Kind
from tests.chaos.faults import KINDS
from tests.chaos.observe import ARCHIVE, OBJECT_ROOT
from tests.chaos.plan import QUICK_SPECS, Intent
from tests.chaos.processes import MARK
from tests.chaos.run import Options, Run, run
from tests.chaos.servers import BUCKET
from tests.fixtures.servers import s3_client

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("chaos"), pytest.mark.timeout(1500)]

SHORT = Options(
    seed=6,
    jobs=4,
    minutes=8.0,  # at most: it is over once each kind of fault has come
    specs=QUICK_SPECS,
    intents=(Intent.RUN, Intent.CANCEL, Intent.PAUSE),
    kinds=[kind for kind in KINDS if not any(words in kind for words in ("projection", "and engine", "sweep's delay"))],
    workers=2,
    every_seconds=2.5,
    is_each_once=True,
    imports_pause_seconds=8.0,
    changes={"STILLHOUSE_LEASE_SECONDS": "5", "STILLHOUSE_CLEANUP_DELAY_SECONDS": "12"},
)

# What `spoil` does, as it has to be complained of.
SPOILT = {
    (Kind.DOUBLED, "terminal events"),
    (Kind.LOST, "config.json is named, and not there"),
    (Kind.WRONG, f"{ARCHIVE} came with sha256"),
    (Kind.LOST, "could not be downloaded"),
    (Kind.LEAKED, "an-orphan"),
    (Kind.LEAKED, "a-run-folder"),
    (Kind.LEAKED, "worker.distill"),
}


def test_nothing_is_lost_doubled_wrong_or_left_behind() -> None:
    complaints: list[set[tuple[Kind, str]]] = []

    def vandalise(this: Run) -> None:
        complaints.append(spoil(this))

    outcome = run(SHORT, Console(soft_wrap=True), afterwards=vandalise)
    assert outcome.violations == [], f"logs are in {outcome.logs}"
    assert outcome.missing_faults == []
    assert {client.plan.intent for client in outcome.told} == {*SHORT.intents}
    # The same eyes on the same system, now that something is wrong with it.
    assert complaints[0] >= SPOILT


def spoil(this: Run) -> set[tuple[Kind, str]]:
    """Do one wrong of each sort to what the run has left; gives what is complained of, by the words that tell it."""
    before = this.look()
    first, second = [*before.downloads][:2]
    with psycopg.connect(this.cluster.database_url) as database:
        database.execute(
            "INSERT INTO job_events (job_id, sequence, type, payload, created_at) "
            "SELECT job_id, sequence + 1, type, payload, created_at FROM job_events "
            "WHERE job_id = %s ORDER BY sequence DESC LIMIT 1",
            [first],
        )
    bucket = s3_client(this.cluster.bucket_variables)
    stored = {
        job: {row["name"]: OBJECT_ROOT + row["object_key"] for row in before.artifacts[job]} for job in (first, second)
    }
    # The same bytes packed otherwise, and half of an archive.
    archive = bucket.get_object(Bucket=BUCKET, Key=stored[first][ARCHIVE])["Body"].read()
    bucket.put_object(Bucket=BUCKET, Key=stored[first][ARCHIVE], Body=archive[:9] + b"\x03" + archive[10:])
    bucket.put_object(Bucket=BUCKET, Key=stored[second][ARCHIVE], Body=archive[:1000])
    bucket.delete_object(Bucket=BUCKET, Key=stored[first]["config.json"])
    bucket.put_object(Bucket=BUCKET, Key=f"{OBJECT_ROOT}jobs/{first}/token/checkpoints/1/an-orphan", Body=b"x")
    folder = Path(this.cluster.workers[0].environment["STILLHOUSE_HOME"]) / "work" / "a-run-folder"
    folder.mkdir(parents=True)
    engine = [sys.executable, "-c", "input()", "-m", "worker.distill", str(folder / "token")]
    environment = {**os.environ, MARK: this.cluster.mark}
    with subprocess.Popen(engine, env=environment, stdin=subprocess.PIPE) as leaked:
        found = this.judge(this.look())
        leaked.kill()
    folder.rmdir()
    return {(violation.kind, words) for violation in found for _, words in SPOILT if words in violation.what}
