"""`python -m bench.checkpoints`: what checkpoints cost a run, as a share of its wall time.

Runs the engine on the demo's job with the default settings and adds up the time for which training stood still while
a checkpoint was written. What the worker does with it afterwards runs beside the training.
"""

import json
import shutil
import sys
import tempfile
from pathlib import Path

from app.schemas.job_bodies import JobCreate
from app.seeds import HOW_TO_GET_THE_TEACHER, demo_dataset_files, demo_teacher_folder
from app.settings import Settings
from bench import engine
from bench.report import CHECKOUT
from worker.distill.config import FORMAT_VERSION
from worker.distill.run_folder import CHECKPOINTS, JOB
from worker.machine import count_cores
from worker.preparation.datasets import prepare_dataset
from worker.preparation.lines import Upload
from worker.uploads import KEEP_CHECKPOINTS


def main() -> int:
    teacher = demo_teacher_folder()
    if teacher is None:
        print(HOW_TO_GET_THE_TEACHER, file=sys.stderr)
        return 1
    with tempfile.TemporaryDirectory(prefix="stillhouse-bench-") as name:
        folder = Path(name)
        prepare(folder, teacher)
        measured, events = engine.run(folder)
        seconds = [event["seconds"] for event in events if event["type"] == "checkpoint"]
        newest = max((folder / CHECKPOINTS).iterdir())
        size_bytes = sum(file.stat().st_size for file in newest.iterdir())
    print(
        f"{len(seconds)} checkpoints (the last one {size_bytes / 1e6:.0f} MB) took {sum(seconds):.2f} s of "
        f"{measured.seconds:.0f} s: {sum(seconds) / measured.seconds:.2%}; the longest {max(seconds):.2f} s"
    )
    return 0


def prepare(folder: Path, teacher: Path) -> None:
    """Lay out a run folder as a worker would."""
    shutil.copytree(teacher, folder / "teacher")
    uploads = [Upload(split, path.name, path) for split, path in demo_dataset_files().items()]
    prepared = prepare_dataset(uploads, folder / "dataset")
    demo = json.loads((CHECKOUT / "app/demo/job.json").read_text())
    job = JobCreate(**{**demo, "teacher": "tch_demo", "dataset": "dts_demo"}).spec()
    job |= {
        "format_version": FORMAT_VERSION,
        "job_id": "job_bench",
        "teacher": {"path": "teacher", "sha256": "teacher"},
        "dataset": {"path": "dataset", "sha256": prepared.sha256},
        "threads": count_cores(),
        "checkpoint": {"every_seconds": Settings().checkpoint_seconds, "keep": KEEP_CHECKPOINTS},
    }
    (folder / JOB).write_text(json.dumps(job))


if __name__ == "__main__":
    sys.exit(main())
