"""What is compared: one budget, five ways to spend it, and SAGE on a smaller one."""

from dataclasses import dataclass
from typing import Any

from app.schemas.methods.registry import METHODS
from bench.hyperparameters import Hyperparameters
from bench.setting import size_name

SAGE, KD = "sage", "kd"
TEACHER = "teacher"
# SAGE with 60 % of the budget: does it get where plain KD ends?
SAGE_ON_LESS = "sage_on_less"
LESS = 0.6
ARMS = ("fine_tune", KD, "oversample", "random_anchors", SAGE, SAGE_ON_LESS)
CONTROLS = ("oversample", "random_anchors")
TITLES = {
    "fine_tune": "fine-tuning alone",
    KD: "plain KD",
    "oversample": "oversampling",
    "random_anchors": "random anchors",
    SAGE: "SAGE",
    SAGE_ON_LESS: f"SAGE on {100 * LESS:.0f} % of the budget",
}
DATASETS = ("sst2_sentences", "clinc150", "qnli_10k", "mrpc")
# At the sizes of the paper's models: its two tasks (of QNLI what there is), what its student kept of the teacher.
PAPER_RETENTION = {"sst2_glue": 0.996, "qnli_10k": 0.993}
EPOCHS, WARMUP_EPOCHS = 4.0, 1.0
SEEDS = 5


@dataclass(frozen=True)
class Plan:
    """One cell: a dataset, how many of its training rows, a seed. `changes` are of SAGE's own parameters."""

    dataset: str
    rows: int | None
    seed: int
    changes: tuple[tuple[str, Any], ...] = ()
    epochs: float = EPOCHS
    arms: tuple[str, ...] = ARMS

    @property
    def name(self) -> str:
        return f"{self.dataset}, {size_name(self.rows)}, seed {self.seed}"


def budget_of(arm: str) -> float:
    """Its share of the budget."""
    return LESS if arm == SAGE_ON_LESS else 1.0


def method(arm: str, hyper: Hyperparameters, changes: dict[str, Any]) -> dict[str, Any]:
    """The arm's entry in job.json: the job spec's defaults, but no early stop, which would be another budget.

    `changes` are of SAGE; its controls follow where they have the same parameter.
    """
    model = METHODS[SAGE if arm == SAGE_ON_LESS else arm]
    wanted = {
        "temperature": hyper.temperature,
        "alpha": hyper.alpha,
        "warmup_epochs": WARMUP_EPOCHS * budget_of(arm),
        "early_stopping": False,
        **changes,
    }
    return model(**{name: value for name, value in wanted.items() if name in model.model_fields}).model_dump()
