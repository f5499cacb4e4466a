"""The bench with a model of a few thousand weights: everything is done once, in seconds, and no figure means anything.

The Trainer runs in the interpreter of the bench itself, so no environment has to be made.
"""

import importlib.util
import sys
from pathlib import Path

from bench.datasets import open_dataset
from bench.hyperparameters import Hyperparameters
from bench.models import Pair, open_models, write_student
from bench.speed.comparison import Comparison
from bench.speed.plan import STILLHOUSE, chosen_systems
from tests.worker.distill.tiny_runs import make_run

PAIR = Pair("tiny", "a tiny random BERT", teacher_layers=4, student_layers=2)
SYSTEMS = (STILLHOUSE, *chosen_systems("trainer"))


def comparison(folder: Path) -> Comparison:
    """A classifier with random weights as the teacher, and the engine tests' few hundred rows."""
    if importlib.util.find_spec("accelerate") is None:
        raise SystemExit("--quick runs the Trainer in this interpreter, which lacks accelerate: pip install accelerate")
    run = make_run(folder / "tiny", train_rows=320)
    models = folder / "models"
    models.mkdir()
    (run / "teacher").rename(models / "teacher")
    write_student(models / "teacher", models / "student", PAIR.student_layers)
    return Comparison(
        dataset=open_dataset(run / "dataset", "tiny", max_length=24),
        models=open_models(models),
        hyper=Hyperparameters(learning_rate=3e-3),
        precision="fp32",
        threads=1,
        cache=folder,
        shared_python=Path(sys.executable),
        matmul_seconds=0.005,
    )
