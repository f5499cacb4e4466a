"""What is compared: every objective, auxiliary loss and parameterisation, alone and with SAGE, on one budget."""

from dataclasses import dataclass
from typing import Any

from app.schemas.methods.combinations import has_objective, lacks_rounds, why_not
from app.schemas.methods.registry import METHODS
from bench.hyperparameters import Hyperparameters

KD, SAGE = "kd", "sage"
# SAGE's controls are a matter of the quality bench.
OVERSAMPLE = "oversample"
ALONE = tuple(name for name in METHODS if name not in (SAGE, "random_anchors", OVERSAMPLE))
DATASETS = ("sst2_sentences", "clinc150", "qnli_10k", "mrpc")
EPOCHS, WARMUP_EPOCHS = 4.0, 1.0
SEEDS = 3


@dataclass(frozen=True)
class Recipe:
    """Methods that train a student together, the main one first."""

    methods: tuple[str, ...]

    @property
    def name(self) -> str:
        return " + ".join(self.methods)

    def parameters(self, hyper: Hyperparameters) -> list[dict[str, Any]]:
        """Their entries in job.json: the job spec's defaults, but no early stop, which would be another budget."""
        wanted = {
            "temperature": hyper.temperature,
            "alpha": hyper.alpha,
            "warmup_epochs": WARMUP_EPOCHS,
            "early_stopping": False,
        }
        entries = []
        for name in self.methods:
            # What the comparison fixes is plain distillation and the rounds; the other losses keep their own defaults.
            fixed = wanted if name in (KD, SAGE, OVERSAMPLE) else {}
            fields = METHODS[name].model_fields
            entries.append(
                METHODS[name].model_validate({key: value for key, value in fixed.items() if key in fields}).model_dump()
            )
        return entries


def recipes() -> list[Recipe]:
    """Each method alone (with what it needs beside it where it is no whole training by itself), then each with SAGE."""
    found = []
    for name in ALONE:
        model = METHODS[name].model_validate({})
        if lacks_rounds([model]):
            found.append(Recipe((OVERSAMPLE, name)))
        else:
            found.append(Recipe((name,) if has_objective([model]) else (KD, name)))
    found.append(Recipe((SAGE,)))
    found += [Recipe((SAGE, name)) for name in ALONE if name != KD and why_not(SAGE, name) is None]
    return found


@dataclass(frozen=True)
class Plan:
    """One cell."""

    recipe: Recipe
    dataset: str
    rows: int | None
    seed: int
