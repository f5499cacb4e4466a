"""Where the benches put what they found: a section each of docs/benchmarks.md, between two markers."""

import platform
from dataclasses import dataclass
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[1]
PAGE = CHECKOUT / "docs" / "benchmarks.md"


@dataclass(frozen=True)
class Section:
    """A part of the page that `make <command>` writes."""

    title: str
    command: str

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


def cells(*texts: str) -> str:
    """A row of a Markdown table."""
    return f"| {' | '.join(texts)} |"


def processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.machine()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())
