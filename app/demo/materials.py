"""What the demo distils: the shipped dataset, the teacher, the job and a few sentences of its own."""

import json
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from app import seeds

# Written for the demo; none of them stands in the dataset.
SENTENCES = (
    "the shop refused my visa card although there is money on it",
    "when is the electricity bill supposed to be paid",
    "i am off to lisbon on friday, please let my bank know",
    "how long must i wait until the new card arrives",
    "what did i spend on restaurants last month",
    "is it safe to go to colombia at the moment",
)


@dataclass(frozen=True)
class Materials:
    """Everything that one run of the demo needs."""

    dataset_name: str
    dataset_files: dict[str, Path]  # split -> file
    seeded_teacher_id: str | None  # taken when the server has it
    teacher_name: str
    teacher_folder: Path | None
    job: dict[str, Any]  # the body of POST /jobs, without its teacher and dataset
    sentences: tuple[str, ...]


def shipped() -> Materials:
    return Materials(
        dataset_name=seeds.DEMO_DATASET_NAME,
        dataset_files=seeds.demo_dataset_files(),
        seeded_teacher_id=seeds.DEMO_TEACHER_ID,
        teacher_name=seeds.DEMO_TEACHER_NAME,
        teacher_folder=seeds.demo_teacher_folder(),
        job=json.loads(resources.files("app.demo").joinpath("job.json").read_text()),
        sentences=SENTENCES,
    )
