"""`python -m bench.api`: measure, print the table, and write it to docs/benchmarks.md.

The bare route and the API are loaded in turns, round by round, so that whatever else the machine does meets both;
what counts are the ratios of the two within a round. `--quick` does all of it once, small and short: to see that it
works, and not to measure.
"""

import argparse
import asyncio
import json
import os
import platform
import random
import statistics
import sys
import time
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

from app.db.session import dispose_engines
from bench.api.load import Outcome, Request, get, post, send_load, send_loads
from bench.api.system import BODY, CHECKOUT, System, add_points, fill_jobs, live_jobs, post_job, started_system

PAGE = CHECKOUT / "docs" / "benchmarks.md"
SECTION = "API under load"
BEGIN, END = "<!-- bench-api: begin -->", "<!-- bench-api: end -->"
MAIN_SIZE = 10_000
POSTERS = 20


@dataclass(frozen=True)
class Plan:
    sizes: tuple[int, ...]
    pollers: int
    rounds: int
    round_seconds: float
    points: int


FULL = Plan(sizes=(1_000, 10_000, 100_000, 1_000_000), pollers=500, rounds=5, round_seconds=8.0, points=1_000_000)
QUICK = Plan(sizes=(100, 1_000), pollers=20, rounds=1, round_seconds=0.5, points=20_000)


@dataclass(frozen=True)
class Pair:
    """One round: the bare route, then the API."""

    bare: Outcome
    api: Outcome

    @property
    def rate_ratio(self) -> float:
        return self.api.rate / self.bare.rate

    @property
    def p99_ratio(self) -> float:
        return self.api.percentile(0.99) / self.bare.percentile(0.99)


class Failures:
    """What went wrong in all loads: a rate with errors in it is no rate."""

    def __init__(self) -> None:
        self.count = 0

    def check(self, *outcomes: Outcome) -> None:
        for outcome in outcomes:
            self.count += outcome.error_count
            for text in outcome.errors:
                print(f"error: {text}", file=sys.stderr)
            if not outcome.answers:
                self.count += 1
                print("error: a load without a single answer", file=sys.stderr)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.api", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="small and short, for correctness; writes no page")
    parser.add_argument("--largest", type=int, help="leave out sizes above this number of jobs")
    options = parser.parse_args()
    plan = QUICK if options.quick else FULL
    sizes = tuple(size for size in plan.sizes if size <= (options.largest or size))
    failures = Failures()
    try:
        with started_system(is_quick=options.quick) as system:
            lines = measure(system, plan, sizes, failures)
    finally:
        dispose_engines()
    text = "\n".join(lines)
    print(text)
    if failures.count:
        print(f"{failures.count} errors: the numbers mean nothing.", file=sys.stderr)
        return 1
    if not options.quick:
        write_section(text)
        print(f"\nWritten to {PAGE}")
    return 0


def measure(system: System, plan: Plan, sizes: tuple[int, ...], failures: Failures) -> list[str]:
    template = post_job(system)
    growth, main_rows = [], []
    filled = 0
    for size in sizes:
        fill_jobs(system, template, first=filled + 1, last=size)
        filled = size
        ids = live_jobs(system)
        is_main = size == MAIN_SIZE or size == sizes[-1] < MAIN_SIZE
        pairs = poll(system, plan, ids, rounds=plan.rounds if is_main else max(1, plan.rounds // 2), failures=failures)
        growth.append(growth_row(system, size, pairs, failures))
        if is_main:
            main_rows = [poll_row(pairs), *posting_rows(system, plan, ids, pairs, failures)]
    add_points(system, template, plan.points)
    return [*introduction(plan), *main_table(main_rows), "", *growth_table(growth), "", *series_table(system, template)]


def poll(system: System, plan: Plan, ids: list[str], *, rounds: int, failures: Failures) -> list[Pair]:
    """Rounds of polling, the bare route and the API in turns, after one that warms both up."""
    pairs = []
    for number in range(rounds + 1):
        seconds = plan.round_seconds if number else plan.round_seconds / 4
        bare = run_load(system.bare_port, polls(ids), plan.pollers, seconds)
        api = run_load(system.api_port, polls(ids), plan.pollers, seconds)
        failures.check(bare, api)
        if number:
            pairs.append(Pair(bare, api))
    return pairs


def poll_row(pairs: list[Pair]) -> str:
    bare, api = [pair.bare for pair in pairs], [pair.api for pair in pairs]
    return row(
        "`GET /jobs/{id}`, 500 pollers" if len(pairs) > 1 else "`GET /jobs/{id}`",
        middle(bare, lambda outcome: outcome.rate),
        middle(api, lambda outcome: outcome.rate),
        statistics.median(pair.rate_ratio for pair in pairs),
        1000 * middle(bare, lambda outcome: outcome.percentile(0.99)),
        1000 * middle(api, lambda outcome: outcome.percentile(0.99)),
        statistics.median(pair.p99_ratio for pair in pairs),
    )


def posting_rows(system: System, plan: Plan, ids: list[str], pairs: list[Pair], failures: Failures) -> list[str]:
    """POST /jobs alone, then beside the pollers; both against the bare route's rounds of polling."""
    bare = [pair.bare for pair in pairs]
    bare_rate = middle(bare, lambda outcome: outcome.rate)
    bare_p99 = middle(bare, lambda outcome: outcome.percentile(0.99))
    alone = run_load(system.api_port, posts(), POSTERS, plan.round_seconds)
    posting, polling = asyncio.run(
        send_loads(system.api_port, [(posts(), POSTERS), (polls(ids), plan.pollers)], seconds=plan.round_seconds)
    )
    failures.check(alone, posting, polling)
    rows = []
    for name, outcome in [
        (f"`POST /jobs`, {POSTERS} clients", alone),
        (f"`POST /jobs`, {POSTERS} clients, beside the pollers", posting),
        ("`GET /jobs/{id}`, beside the posting clients", polling),
    ]:
        p99 = outcome.percentile(0.99)
        rows.append(
            row(name, bare_rate, outcome.rate, outcome.rate / bare_rate, 1000 * bare_p99, 1000 * p99, p99 / bare_p99)
        )
    return rows


def growth_row(system: System, size: int, pairs: list[Pair], failures: Failures) -> str:
    first_page = run_load(system.api_port, lambda: get("/jobs?limit=20", expected='"has_more":'), 1, 1.0)
    deep_cursor = cursor_behind_half(system, size)
    deep = run_load(system.api_port, lambda: get(f"/jobs?limit=20&after={deep_cursor}", expected='"has_more":'), 1, 1.0)
    failures.check(first_page, deep)
    return (
        "| "
        + " | ".join(
            [
                f"{size:,}",
                f"{middle([pair.bare for pair in pairs], lambda outcome: outcome.rate):,.0f}",
                f"{middle([pair.api for pair in pairs], lambda outcome: outcome.rate):,.0f}",
                f"{statistics.median(pair.rate_ratio for pair in pairs):.2f}",
                f"{statistics.median(pair.p99_ratio for pair in pairs):.2f}",
                f"{1000 * first_page.percentile(0.5):.1f} ms",
                f"{1000 * deep.percentile(0.5):.1f} ms",
            ]
        )
        + " |"
    )


def series_table(system: System, job_id: str) -> list[str]:
    """How long the metrics of a long job take to read."""
    lines = [
        "| metrics of one job | points in the answer | answer | time, median of 5 |",
        "|---|---:|---:|---:|",
    ]
    for query in ("", "?series=series/1", "?series=series/1&from_step=5000&to_step=9000"):
        times = []
        for _ in range(5):
            began = time.perf_counter()
            with urllib.request.urlopen(f"{address(system)}/jobs/{job_id}/metrics{query}", timeout=120) as response:
                body = response.read()
            times.append(time.perf_counter() - began)
        page = json.loads(body)["data"]
        count = sum(len(series["points"]) for series in page)
        total = sum(series["total"] for series in page)
        name = f"`GET /jobs/{{id}}/metrics{query}`, {total:,} points stored"
        lines.append(f"| {name} | {count:,} | {len(body) / 1000:,.0f} kB | {statistics.median(times):.2f} s |")
    return lines


def introduction(plan: Plan) -> list[str]:
    return [
        f"{plan.pollers} clients poll jobs that run, each asking again as soon as it has its answer, over connections "
        "that stay open. The bare route is a FastAPI application with one `def` route: a SQLAlchemy session from "
        "`Depends`, one look-up of five columns of the same table by primary key, and a pydantic response model. It "
        "and the API (`stillhouse api`) are one uvicorn process each, loaded in turns, with the client and PostgreSQL "
        "on the same machine. Rates and p99 are medians over the rounds; the ratios are medians of the ratios within "
        "each round.",
        "",
        f"{datetime.now(UTC):%Y-%m-%d}, {processor()}, {os.cpu_count()} cores shared by all; Python "
        f"{platform.python_version()}, fastapi {version('fastapi')}, uvicorn {version('uvicorn')}, SQLAlchemy "
        f"{version('sqlalchemy')}; {plan.rounds} rounds of {plan.round_seconds:g} s; load average at the end "
        f"{os.getloadavg()[1]:.1f}.",
        "",
    ]


def main_table(rows: list[str]) -> list[str]:
    return [
        f"With {MAIN_SIZE:,} jobs:",
        "",
        "| | bare, requests/s | API, requests/s | ratio | bare p99 | API p99 | ratio |",
        "|---|---:|---:|---:|---:|---:|---:|",
        *rows,
    ]


def growth_table(rows: list[str]) -> list[str]:
    return [
        "| jobs | bare, requests/s | `GET /jobs/{id}`, requests/s | ratio | p99 ratio | first page of `GET /jobs` | "
        "page in the middle |",
        "|---:|---:|---:|---:|---:|---:|---:|",
        *rows,
    ]


def row(name: str, bare: float, api: float, ratio: float, bare_p99: float, api_p99: float, p99_ratio: float) -> str:
    return (
        f"| {name} | {bare:,.0f} | {api:,.0f} | {ratio:.2f} | {bare_p99:,.0f} ms | {api_p99:,.0f} ms | "
        f"{p99_ratio:.2f} |"
    )


def run_load(port: int, requests: Callable[[], Request], clients: int, seconds: float) -> Outcome:
    return asyncio.run(send_load(port, requests, clients=clients, seconds=seconds))


def polls(ids: list[str]) -> Callable[[], Request]:
    requests = [get(f"/jobs/{job_id}", expected=job_id) for job_id in ids]
    return lambda: random.choice(requests)


def posts() -> Callable[[], Request]:
    request = post("/jobs", json.dumps(BODY).encode(), status=202, expected='"status":"queued"')
    return lambda: request


def cursor_behind_half(system: System, size: int) -> str:
    """The cursor of the job in the middle of the list."""
    from sqlalchemy import text

    from app.db.session import get_engine
    from app.repositories.pages import encode_cursor

    job_id = f"job_{max(1, size // 2):026}"
    with get_engine(system.settings).connect() as connection:
        created_at = connection.scalar(text("SELECT created_at FROM jobs WHERE id = :id"), {"id": job_id})
    return encode_cursor(created_at.astimezone(UTC), job_id)


def middle(outcomes: list[Outcome], of: Callable[[Outcome], float]) -> float:
    return statistics.median(of(outcome) for outcome in outcomes)


def address(system: System) -> str:
    return f"http://127.0.0.1:{system.api_port}"


def processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.machine()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())


def write_section(text: str) -> None:
    """Put the tables between the page's markers; the rest of the page stays as it is."""
    page = PAGE.read_text() if PAGE.exists() else "# Benchmarks\n"
    if BEGIN not in page:
        page = (
            f"{page.rstrip()}\n\n## {SECTION}\n\n`make bench-api` measures and writes this section.\n\n{BEGIN}\n{END}\n"
        )
    before, rest = page.split(BEGIN, 1)
    PAGE.write_text(f"{before}{BEGIN}\n{text}\n{END}{rest.split(END, 1)[1]}")


if __name__ == "__main__":
    raise SystemExit(main())
