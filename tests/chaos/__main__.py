"""`python -m tests.chaos`: kill everything at random, and see whether anything is lost, doubled or wrong."""

import argparse
import json
import secrets
import signal
import sys
from dataclasses import asdict

from rich.console import Console

from tests.chaos.report import print_tables
from tests.chaos.run import Options, Outcome, run

DEFAULT_JOBS = 24
DEFAULT_MINUTES = 8.0


def main() -> int:
    arguments = _parser().parse_args()
    # So that what was started is stopped, and the folders go.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    jobs = arguments.jobs or (None if arguments.minutes else DEFAULT_JOBS)
    seed = secrets.randbelow(100_000) if arguments.seed is None else arguments.seed
    minutes = arguments.minutes or DEFAULT_MINUTES
    console = Console(soft_wrap=True)
    again = f"python -m tests.chaos --seed {seed}"
    again += f" --jobs {arguments.jobs}" if arguments.jobs else ""
    again += f" --minutes {arguments.minutes:g}" if arguments.minutes else ""
    console.print(f"seed {seed}; the same faults and jobs again: {again}", highlight=False)
    outcome = run(Options(seed=seed, jobs=jobs, minutes=minutes), console)
    print_tables(
        console,
        faults=outcome.faults,
        told=outcome.told,
        observed=outcome.observed,
        violations=outcome.violations,
    )
    if outcome.missing_faults:
        console.print(f"The jobs were over before these came: {', '.join(outcome.missing_faults)}")
    if not outcome.violations:
        console.print("Nothing lost, nothing doubled, nothing wrong, nothing left behind.")
        return 0
    _keep_observed(outcome)
    console.print(f"Logs: {outcome.logs}\nAgain: {again}", highlight=False)
    return 1


def _keep_observed(outcome: Outcome) -> None:
    if outcome.logs is not None:
        content = json.dumps(asdict(outcome.observed), default=str, indent=1)
        (outcome.logs / "observed.json").write_text(content)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--seed", type=int, help="of the faults and the jobs (default: drawn)")
    parser.add_argument("--jobs", type=int, help=f"how many (default: {DEFAULT_JOBS}; with --minutes: no end)")
    parser.add_argument(
        "--minutes", type=float, help=f"how long faults and new jobs go on at most (default: {DEFAULT_MINUTES:g})"
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
