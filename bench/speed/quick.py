"""The bench with a model of a few thousand weights: everything is done once, in seconds, and no figure means anything.

The Trainer runs in the interpreter of the bench itself, so no environment has to be made.
"""

import importlib.util
import sys
from pathlib import Path

from bench.hyperparameters import Hyperparameters
from bench.speed.comparison import Comparison
from bench.speed.plan import STILLHOUSE, chosen_systems
from bench.tiny import make_tiny

SYSTEMS = (STILLHOUSE, *chosen_systems("trainer"))


def comparison(folder: Path) -> Comparison:
    """What is compared in a quick run."""
    if importlib.util.find_spec("accelerate") is None:
        raise SystemExit("--quick runs the Trainer in this interpreter, which lacks accelerate: pip install accelerate")
    models, dataset = make_tiny(folder, train_rows=320)
    return Comparison(
        dataset=dataset,
        models=models,
        hyper=Hyperparameters(learning_rate=3e-3),
        precision="fp32",
        threads=1,
        cache=folder,
        shared_python=Path(sys.executable),
        matmul_seconds=0.005,
    )
