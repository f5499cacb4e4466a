"""Models of a few thousand weights and a few hundred rows: what --quick runs on, where no figure means anything."""

from pathlib import Path

from bench.datasets import Dataset, open_dataset
from bench.models import Models, Pair, open_models, write_student
from tests.worker.distill.tiny_runs import make_run

PAIR = Pair("tiny", "a tiny random BERT", teacher_layers=4, student_layers=2)


def make_tiny(folder: Path, train_rows: int) -> tuple[Models, Dataset]:
    """A classifier with random weights as the teacher, and the engine tests' rows."""
    run = make_run(folder / "tiny", train_rows=train_rows)
    models = folder / "models"
    models.mkdir()
    (run / "teacher").rename(models / "teacher")
    write_student(models / "teacher", models / "student", PAIR.student_layers)
    return open_models(models), open_dataset(run / "dataset", "tiny", max_length=24)
