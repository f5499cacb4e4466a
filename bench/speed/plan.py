"""What is compared: the systems, one column each."""

from dataclasses import dataclass

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


def chosen_systems(names: str | None) -> tuple[System, ...]:
    """The systems of a comma-separated list of ids; a peer's bare name means all of its settings. None: all."""
    if names is None:
        return SYSTEMS
    wanted = [name.strip() for name in names.split(",") if name.strip()]
    known = {system.id for system in SYSTEMS} | {system.name for system in SYSTEMS}
    if unknown := [name for name in wanted if name not in known]:
        raise SystemExit(f"{', '.join(unknown)} is not known; known are {', '.join(sorted(known))}.")
    return tuple(system for system in SYSTEMS if {system.id, system.name} & set(wanted))
