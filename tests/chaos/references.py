"""What each job has to end with: the same job run by the engine alone, undisturbed, on a quiet folder.

Kept between runs under the hash of all that goes in, the engine's own source included.
"""

import hashlib
import json
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import worker.distill
from app.db.models import Dataset, Job, Teacher
from app.schemas.job_bodies import JobCreate
from app.settings import Settings
from tests.chaos.plan import CLASSIFIER, ENCODER, Spec
from tests.e2e import tiny
from worker.inputs import describe_job
from worker.preparation.datasets import prepare_dataset
from worker.preparation.lines import Upload
from worker.preparation.teachers import describe_teacher

AT_ONCE = 2
_LIBRARIES = ("torch", "transformers", "numpy", "umap-learn", "faiss-cpu", "safetensors")


@dataclass(frozen=True)
class Reference:
    content_sha256: str
    # What the student's folder holds, by name; files that tell of the run itself left out.
    files: dict[str, str]
    names: list[str]
    # "series step" -> value
    metrics: dict[str, float | None]


@dataclass(frozen=True)
class Materials:
    """The inputs of all jobs: what is uploaded, and as what it has to arrive."""

    uploads: dict[str, bytes]
    teacher_folders: dict[str, Path]
    dataset_folder: Path
    dataset_sha256: str
    dataset_rows: dict[str, int]
    teacher_sha256: dict[str, str]  # by the spec's kind of teacher


def make_materials(folder: Path) -> Materials:
    """Write the teachers and prepare the dataset as a worker would."""
    from tests.fixtures.tiny_models import write_classifier

    folder.mkdir()
    uploads = {split: tiny.csv_bytes(split) for split in tiny.ROWS}
    received = []
    for split, content in uploads.items():
        path = folder / f"{split}.csv"
        path.write_bytes(content)
        received.append(Upload(split, path.name, path))
    prepared = prepare_dataset(
        received,
        folder / "prepared",
        text_column=None,
        text_pair_column=None,
        label_column=None,
        max_bytes=2**30,
        tick=lambda: None,
    )
    teachers = folder / "teachers"
    words = sorted({*tiny.FILLERS, *(word for group in tiny.WORDS.values() for word in group)})
    folders = {
        ENCODER: tiny.write_teacher(teachers / ENCODER),
        CLASSIFIER: write_classifier(teachers / CLASSIFIER, words, sorted(tiny.WORDS)),
    }
    return Materials(
        uploads=uploads,
        teacher_folders=folders,
        dataset_folder=folder / "prepared",
        dataset_sha256=prepared.sha256,
        dataset_rows=dict(prepared.rows),
        teacher_sha256={kind: describe_teacher(path).sha256 for kind, path in folders.items()},
    )


def compute(
    specs: Sequence[Spec], materials: Materials, settings: Settings, folder: Path, kept: Path
) -> dict[str, Reference]:
    """The reference of each spec by its name; what `kept` has is not computed again."""
    folder.mkdir()
    with ThreadPoolExecutor(AT_ONCE) as pool:
        found = pool.map(lambda spec: _reference(spec, materials, settings, folder, kept), specs)
        return {spec.name: reference for spec, reference in zip(specs, found, strict=True)}


def _reference(spec: Spec, materials: Materials, settings: Settings, folder: Path, kept: Path) -> Reference:
    job = _describe(spec, materials, settings)
    file = kept / f"{_key(job)}.json"
    if file.exists():
        return Reference(**json.loads(file.read_text()))
    run = folder / hashlib.sha256(spec.name.encode()).hexdigest()[:12]
    shutil.copytree(materials.teacher_folders[spec.teacher], run / "teacher")
    shutil.copytree(materials.dataset_folder, run / "dataset")
    (run / "job.json").write_text(json.dumps(job))
    done = subprocess.run(
        [sys.executable, "-m", "worker.distill", str(run)],
        cwd=run,
        env=_engine_environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        raise RuntimeError(f"the undisturbed run of {spec.name!r} failed:\n{done.stdout}\n{done.stderr}")
    reference = _read(run)
    shutil.rmtree(run)
    kept.mkdir(parents=True, exist_ok=True)
    aside = kept / f"{file.name}.{run.name}.part"
    aside.write_text(json.dumps(asdict(reference)))
    aside.rename(file)
    return reference


def _describe(spec: Spec, materials: Materials, settings: Settings) -> dict[str, Any]:
    """The job.json that a worker would write."""
    body = JobCreate(**spec.body, teacher="tch_reference", dataset="dts_reference").spec()
    names = ("student", "method", "combine", "training", "teacher_tuning", "baselines")
    job = Job(id="job_reference", **{name: body[name] for name in names})
    teacher = Teacher(id="tch_reference", sha256=materials.teacher_sha256[spec.teacher])
    dataset = Dataset(id="dts_reference", sha256=materials.dataset_sha256)
    return describe_job(job, teacher, dataset, settings)


def _read(run: Path) -> Reference:
    metrics: dict[str, float | None] = {}
    content_sha256 = ""
    for line in (run / "events.jsonl").read_text().splitlines():
        event = json.loads(line)
        if event["type"] == "metric":
            metrics[f"{event['series']} {event['step']}"] = event["value"]
        elif event["type"] == "succeeded":
            content_sha256 = event["result"]["content_sha256"]
    files = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in (run / "artifact").iterdir()}
    told = ("manifest.json", "metrics.json", "README.md")
    return Reference(
        content_sha256=content_sha256,
        files={name: sha256 for name, sha256 in sorted(files.items()) if name not in told},
        names=sorted(files),
        metrics=metrics,
    )


def _engine_environment() -> Mapping[str, str]:
    source = str(Path(worker.distill.__file__).parents[2])
    threads = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS"), "1")
    return {**os.environ, **threads, "PYTHONPATH": source, "PYTHONSAFEPATH": "1", "HF_HUB_OFFLINE": "1"}


def _key(job: Mapping[str, Any]) -> str:
    digest = hashlib.sha256(json.dumps(job, sort_keys=True).encode())
    source = Path(worker.distill.__file__).parent
    for file in sorted(source.rglob("*.py")):
        digest.update(file.read_bytes())
    machine = {"python": platform.python_version(), "machine": platform.platform()}
    digest.update(json.dumps(machine | {name: version(name) for name in _LIBRARIES}).encode())
    return digest.hexdigest()[:32]
