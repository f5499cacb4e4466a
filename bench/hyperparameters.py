"""How students are trained in a comparison."""

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class Hyperparameters:
    """The same for every system. The loss is (1 - alpha) CE(label) + alpha temperature^2 KL(teacher || student)."""

    epochs: int = 2
    batch_size: int = 32
    learning_rate: float = 2e-4
    warmup_ratio: float = 0.1
    weight_decay: float = 0.01
    temperature: float = 2.0
    alpha: float = 0.9

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)

    def training(self, *, epochs: float, precision: str, seed: int) -> dict[str, Any]:
        """The part of a job's `training` that a comparison decides."""
        return {
            "epochs": float(epochs),
            "batch_size": self.batch_size,
            "learning_rate": self.learning_rate,
            "warmup_ratio": self.warmup_ratio,
            "weight_decay": self.weight_decay,
            "precision": precision,
            "seed": seed,
        }
