"""What a run says while it runs, and at its end."""

import time
from collections import Counter
from collections.abc import Mapping, Sequence

from rich.console import Console
from rich.table import Table

from tests.chaos.check import Kind, Violation
from tests.chaos.clients import Told
from tests.chaos.observe import Observed

LINE_SECONDS = 10.0
SHOWN_VIOLATIONS = 40


class Progress:
    """A line now and then."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._started_at = time.monotonic()
        self._next_at = 0.0

    def say(self, what: str) -> None:
        self._console.print(f"[dim]{time.monotonic() - self._started_at:6.0f} s[/]  {what}", highlight=False)

    def tick(self, statuses: Mapping[str, str], engines: int, faults: Mapping[str, int], last: str) -> None:
        """Say where the run stands, if the last time is long enough ago."""
        now = time.monotonic()
        if now < self._next_at:
            return
        self._next_at = now + LINE_SECONDS
        counted = ", ".join(f"{count} {status}" for status, count in sorted(Counter(statuses.values()).items()))
        said = f"jobs: {counted or 'none yet'}; engines: {engines}; faults: {sum(faults.values())}"
        self.say(f"{said}; {last}" if last else said)


def print_tables(
    console: Console,
    *,
    faults: Mapping[str, int],
    told: Sequence[Told],
    observed: Observed,
    violations: Sequence[Violation],
) -> None:
    table = Table(title="Faults", title_justify="left")
    table.add_column("kind")
    table.add_column("times", justify="right")
    for kind, count in sorted(faults.items()):
        table.add_row(kind, str(count))
    table.add_section()
    table.add_row("all", str(sum(faults.values())))
    console.print(table)

    jobs = Table(title="Jobs", title_justify="left")
    for column in ("what its client did", "jobs", "attempts", "resumed", "ended as"):
        jobs.add_column(column, justify="right" if column in ("jobs", "attempts", "resumed") else "left")
    for intent in sorted({client.plan.intent for client in told}):
        clients = [client for client in told if client.plan.intent is intent]
        rows = [observed.jobs[client.job_id] for client in clients if client.job_id in observed.jobs]
        resumed = sum(event["type"] == "resumed" for row in rows for event in observed.events.get(row["id"], []))
        ends = Counter(" → ".join(client.ends) or "not over" for client in clients)
        ended = ", ".join(f"{count} {end}" for end, count in ends.items())
        attempts = sum(row["attempt"] for row in rows)
        jobs.add_row(intent, str(len(clients)), str(attempts), str(resumed), ended)
    console.print(jobs)

    verdict = Table(title="Verdict", title_justify="left")
    for column in ("faults", "jobs", *Kind):
        verdict.add_column(column, justify="right")
    counts = Counter(violation.kind for violation in violations)
    verdict.add_row(str(sum(faults.values())), str(len(told)), *(str(counts[kind]) for kind in Kind))
    console.print(verdict)
    for violation in violations[:SHOWN_VIOLATIONS]:
        console.print(f"[red]{violation.kind}[/]  {violation.where}: {violation.what}", highlight=False, markup=True)
    if len(violations) > SHOWN_VIOLATIONS:
        console.print(f"... and {len(violations) - SHOWN_VIOLATIONS} more")
