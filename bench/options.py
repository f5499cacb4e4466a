"""Options that the benches share."""

import argparse
import os
from collections.abc import Callable, Collection, Sequence
from pathlib import Path

from bench.datasets import DATA_VARIABLE, SOURCES
from bench.report import CHECKOUT, PAGE


def names_of(known: Collection[str]) -> Callable[[str], list[str]]:
    """An argparse type: a comma-separated list of names, all of them `known`."""

    def parse(text: str) -> list[str]:
        names = [name.strip() for name in text.split(",") if name.strip()]
        if unknown := [name for name in names if name not in known]:
            raise argparse.ArgumentTypeError(f"{', '.join(unknown)} is none of {', '.join(known)}")
        return names

    return parse


def in_order(wanted: Collection[str], usual: Sequence[str]) -> list[str]:
    """The wanted datasets as the tables have them, however they were named: a bench's usual ones first."""
    return [name for name in dict.fromkeys([*usual, *SOURCES]) if name in wanted]


def add_shared(parser: argparse.ArgumentParser) -> None:
    """--data, --page, --cache and --quick."""
    variable = os.environ.get(DATA_VARIABLE)
    parser.add_argument(
        "--data",
        type=Path,
        default=Path(variable) if variable else None,
        help=f"folder with a folder for each dataset (default: ${DATA_VARIABLE})",
    )
    parser.add_argument("--page", type=Path, help=f"the page to write (default: {PAGE.relative_to(CHECKOUT)})")
    parser.add_argument("--cache", type=Path, default=CHECKOUT / ".bench", help="what is kept between runs")
    parser.add_argument("--quick", action="store_true", help="a tiny model, for correctness; writes --page only")


def add_engine(parser: argparse.ArgumentParser) -> None:
    """--device, --at-once and --minutes, of the benches whose cells are jobs of Stillhouse alone."""
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu", help="what the engine computes on")
    parser.add_argument(
        "--at-once",
        type=int,
        default=1,
        help="on a GPU so many cells beside each other, which then have no times; --report needs the same number",
    )
    parser.add_argument("--minutes", type=float, help="begin no cell after so many minutes")


def check_engine(parser: argparse.ArgumentParser, options: argparse.Namespace) -> None:
    """End with a message where --at-once makes no sense."""
    if options.at_once < 1:
        parser.error(f"--at-once {options.at_once}: it takes 1 or more")
    if options.at_once > 1 and options.device == "cpu":
        parser.error(f"--at-once {options.at_once} needs --device cuda: on a processor cells only slow each other")


def open_cache(folder: Path) -> Path:
    """The folder, made where it is missing, as an absolute path; nothing in it is the checkout's."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / ".gitignore").write_text("*\n")
    return folder.resolve()
