"""Where the benches put what they found: a section each of docs/benchmarks.md, between two markers."""

import platform
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from worker.distill.processor import CPUINFO, Processor

CHECKOUT = Path(__file__).resolve().parents[1]
PAGE = CHECKOUT / "docs" / "benchmarks.md"


@dataclass(frozen=True)
class Section:
    """A part of the page that `make <command>` writes: what is measured otherwise has another command, and so a part
    of its own."""

    title: str
    command: str

    def but(self, title: str, command: str) -> "Section":
        """Of the same, measured otherwise."""
        return Section(f"{self.title}, {title}", f"{self.command} {command}")

    def but_on(self, names: Sequence[str], usual: Collection[str]) -> "Section":
        """Of these datasets, which are told where they are not the usual ones."""
        if {*names} == {*usual}:
            return self
        return self.but(f"on {listed(names)}", f"DATASET={','.join(names)}")

    def but_with(self, count: int, usual: int, noun: str) -> "Section":
        """Of so many seeds or rounds, which are told where there are more than usual: fewer are a part of the usual."""
        return self if count <= usual else self.but(f"{count} {noun}", f"{noun.upper()}={count}")

    def but_at_once(self, count: int) -> "Section":
        """With so many cells beside each other, which make others than one at a time does: those have no times."""
        return self if count == 1 else self.but(f"{count} at once", f"AT_ONCE={count}")

    @property
    def begin(self) -> str:
        return f"<!-- {self.command}: begin -->"

    @property
    def end(self) -> str:
        return f"<!-- {self.command}: end -->"


def write_section(section: Section, report: str, page: Path = PAGE) -> None:
    """Put `report` between the section's markers; the rest of the page stays as it is."""
    text = page.read_text() if page.exists() else "# Benchmarks\n"
    if section.begin not in text:
        text = (
            f"{text.rstrip()}\n\n## {section.title}\n\n`make {section.command}` measures and writes this section.\n\n"
            f"{section.begin}\n{section.end}\n"
        )
    before, rest = text.split(section.begin, 1)
    page.write_text(f"{before}{section.begin}\n{report}\n{section.end}{rest.split(section.end, 1)[1]}")


def listed(names: Sequence[str]) -> str:
    """As a sentence names them: a, b and c."""
    return " and ".join([", ".join(names[:-1]), *names[-1:]] if len(names) > 1 else names)


def cells(*texts: str) -> str:
    """A row of a Markdown table."""
    return f"| {' | '.join(texts)} |"


def processor(file: Path = CPUINFO) -> str:
    """Its name, with family, model and AMX where it tells them: on virtual machines quite different ones have one
    name, and of one model some are let have AMX and some are not."""
    told = Processor.here(file)
    if not told.name:
        return platform.machine()
    more = [f"{name} {value}" for name, value in (("family", told.family), ("model", told.model)) if value]
    if "amx_bf16" in told.instructions:
        more.append("AMX")
    return told.name + (f" ({', '.join(more)})" if more else "")
