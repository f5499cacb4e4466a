"""What is compared: the systems, and the job that all of them do."""

from dataclasses import asdict, dataclass
from typing import Any

DOCUMENTED = "documented"
BEST = "best"


@dataclass(frozen=True)
class System:
    """One column of the comparison. `settings` is empty for Stillhouse, which has one setting only."""

    name: str
    settings: str = ""

    @property
    def id(self) -> str:
        return f"{self.name}-{self.settings}" if self.settings else self.name


STILLHOUSE = System("stillhouse")
PEERS = ("textbrewer", "torchdistill", "trainer")
# The order within a round.
SYSTEMS = (STILLHOUSE, *(System(name, settings) for settings in (DOCUMENTED, BEST) for name in PEERS))


@dataclass(frozen=True)
class Pair:
    """A teacher of `teacher_layers` layers and a student of `student_layers` of them."""

    name: str
    teacher: str
    teacher_layers: int
    student_layers: int


PAIRS = {"minilm": Pair("minilm", "all-MiniLM-L6-v2", teacher_layers=6, student_layers=3)}


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


# The teacher is tuned once for each dataset, before and apart from everything that is timed.
TUNING = {
    "epochs": 3.0,
    "batch_size": 32,
    "learning_rate": 1e-4,
    "warmup_ratio": 0.1,
    "weight_decay": 0.01,
    "seed": 7,
}


def chosen_systems(names: str | None) -> tuple[System, ...]:
    """The systems of a comma-separated list of ids; a peer's bare name means all of its settings. None: all."""
    if names is None:
        return SYSTEMS
    wanted = [name.strip() for name in names.split(",") if name.strip()]
    known = {system.id for system in SYSTEMS} | {system.name for system in SYSTEMS}
    if unknown := [name for name in wanted if name not in known]:
        raise SystemExit(f"{', '.join(unknown)} is not known; known are {', '.join(sorted(known))}.")
    return tuple(system for system in SYSTEMS if {system.id, system.name} & set(wanted))
