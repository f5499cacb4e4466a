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

from sqlalchemy import text

from app.db.session import dispose_engines, get_engine
from app.repositories.pages import encode_cursor
from bench.api.load import Load, Outcome, Request, get, post, send_loads
from bench.api.system import BODY, Server, System, add_points, fill_jobs, live_jobs, post_job, started_system
from bench.report import PAGE, Section, cells, processor, write_section

SECTION = Section("API under load", "bench-api")
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


class Failures:
    """What went wrong in all loads: a rate with errors in it is no rate."""

    def __init__(self) -> None:
        self.count = 0

    def check(self, *outcomes: Outcome) -> None:
        for outcome in outcomes:
            self.count += outcome.error_count
            for error in outcome.errors:
                print(f"error: {error}", file=sys.stderr)
            if not outcome.latencies:
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
    report = "\n".join(lines)
    print(report)
    if failures.count:
        print(f"{failures.count} errors: the numbers mean nothing.", file=sys.stderr)
        return 1
    if not options.quick:
        write_section(SECTION, report)
        print(f"\nWritten to {PAGE}")
    return 0


def measure(system: System, plan: Plan, sizes: tuple[int, ...], failures: Failures) -> list[str]:
    template = post_job(system)
    main_size = max(size for size in sizes if size <= MAIN_SIZE)
    main_rows: list[str] = []
    growth: list[str] = []
    filled = 0
    for size in sizes:
        fill_jobs(system, template, first=filled + 1, last=size)
        filled = size
        ids = live_jobs(system)
        pairs = poll(system, plan, ids, failures)
        growth.append(growth_row(system, size, pairs, failures))
        if size == main_size:
            main_rows = [
                row(f"`GET /jobs/{{id}}`, {plan.pollers} pollers", pairs),
                *posting_rows(system, plan, ids, failures),
            ]
    add_points(system, template, plan.points)
    return [
        *introduction(plan),
        *main_table(main_size, main_rows),
        "",
        *growth_table(growth),
        "",
        *series_table(system, template),
    ]


def poll(system: System, plan: Plan, ids: list[str], failures: Failures) -> list[Pair]:
    """Rounds of polling, the bare route and the API in turns, after one that warms both up."""
    pairs = []
    for number in range(plan.rounds + 1):
        seconds = plan.round_seconds if number else plan.round_seconds / 4
        bare = run_load(system.bare, [(polls(ids), plan.pollers)], seconds)
        api = run_load(system.api, [(polls(ids), plan.pollers)], seconds)
        failures.check(*bare, *api)
        if number:
            pairs.append(Pair(bare[0], api[0]))
    return pairs


def posting_rows(system: System, plan: Plan, ids: list[str], failures: Failures) -> list[str]:
    """POST /jobs alone, then beside the pollers, in turns with the bare route's polling."""
    post_alone, post, poll_beside = [
        f"`POST /jobs`, {POSTERS} clients",
        f"`POST /jobs`, {POSTERS} clients, beside the pollers",
        "`GET /jobs/{id}`, beside those that post",
    ]
    pairs: dict[str, list[Pair]] = {post_alone: [], post: [], poll_beside: []}
    for _ in range(plan.rounds):
        (bare,) = run_load(system.bare, [(polls(ids), plan.pollers)], plan.round_seconds)
        alone = run_load(system.api, [(posts(), POSTERS)], plan.round_seconds)
        both = run_load(system.api, [(posts(), POSTERS), (polls(ids), plan.pollers)], plan.round_seconds)
        failures.check(bare, *alone, *both)
        for name, outcome in zip(pairs, [*alone, *both], strict=True):
            pairs[name].append(Pair(bare, outcome))
    return [
        # As many clients as the bare route has wait longer than a few: only of the pollers p99 can be compared. What
        # the server's time went on cannot be told apart where two loads share it.
        row(post_alone, pairs[post_alone], has_p99_ratio=False),
        row(post, pairs[post], has_p99_ratio=False, has_cpu=False),
        row(poll_beside, pairs[poll_beside], has_cpu=False),
    ]


def growth_row(system: System, size: int, pairs: list[Pair], failures: Failures) -> str:
    times = []
    for path in ("/jobs?limit=20", f"/jobs?limit=20&after={cursor_behind_half(system, size)}"):
        (outcome,) = run_load(system.api, [(lambda path=path: get(path, expected='"has_more":'), 1)], 1.0)  # type: ignore[misc]
        failures.check(outcome)
        times.append(f"{1000 * outcome.percentile(0.5):.1f} ms")
    return cells(
        f"{size:,}",
        f"{middle(pairs, lambda pair: pair.bare.rate):,.0f}",
        f"{middle(pairs, lambda pair: pair.api.rate):,.0f}",
        f"{middle(pairs, rate_ratio):.2f}",
        f"{middle(pairs, p99_ratio):.2f}",
        *times,
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
            with urllib.request.urlopen(f"{system.api.address}/jobs/{job_id}/metrics{query}", timeout=120) as response:
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
        "that stay open. The bare route is a FastAPI application with one `def` route: a SQLAlchemy session, one "
        "look-up of five columns of the same table by primary key, and a pydantic response model. It and the API "
        "(`stillhouse api`) are one uvicorn process each, loaded in turns, with the client and PostgreSQL (fsync on) "
        "on the same machine. Rates and p99 are medians over the rounds; the ratios, API to bare, are medians of the "
        "ratios within each round. Beside every row stands the bare route's polling. Processor time is that of the "
        "server process for one request.",
        "",
        f"{datetime.now(UTC):%Y-%m-%d}, {processor()}, {os.cpu_count()} cores shared by all; Python "
        f"{platform.python_version()}, fastapi {version('fastapi')}, uvicorn {version('uvicorn')}, SQLAlchemy "
        f"{version('sqlalchemy')}; {plan.rounds} rounds of {plan.round_seconds:g} s; load average at the end "
        f"{os.getloadavg()[1]:.1f}.",
        "",
    ]


def main_table(size: int, rows: list[str]) -> list[str]:
    return [
        f"With {size:,} jobs:",
        "",
        "| | bare, requests/s | API, requests/s | ratio | bare p99 | API p99 | ratio | processor time, ratio |",
        "|---|---:|---:|---:|---:|---:|---:|---:|",
        *rows,
    ]


def growth_table(rows: list[str]) -> list[str]:
    return [
        "| jobs | bare, requests/s | `GET /jobs/{id}`, requests/s | ratio | p99 ratio | first page of `GET /jobs` | "
        "page in the middle |",
        "|---:|---:|---:|---:|---:|---:|---:|",
        *rows,
    ]


def row(name: str, pairs: list[Pair], *, has_p99_ratio: bool = True, has_cpu: bool = True) -> str:
    return cells(
        name,
        f"{middle(pairs, lambda pair: pair.bare.rate):,.0f}",
        f"{middle(pairs, lambda pair: pair.api.rate):,.0f}",
        f"{middle(pairs, rate_ratio):.2f}",
        f"{1000 * middle(pairs, lambda pair: pair.bare.percentile(0.99)):,.0f} ms",
        f"{1000 * middle(pairs, lambda pair: pair.api.percentile(0.99)):,.0f} ms",
        f"{middle(pairs, p99_ratio):.2f}" if has_p99_ratio else "",
        f"{middle(pairs, cpu_ratio):.2f}" if has_cpu else "",
    )


def middle(pairs: list[Pair], of: Callable[[Pair], float]) -> float:
    return statistics.median(of(pair) for pair in pairs)


def rate_ratio(pair: Pair) -> float:
    return pair.api.rate / pair.bare.rate if pair.bare.rate else float("nan")


def p99_ratio(pair: Pair) -> float:
    return pair.api.percentile(0.99) / pair.bare.percentile(0.99)


def cpu_ratio(pair: Pair) -> float:
    """Processor time of the server for one request."""
    api = pair.api.server_cpu_seconds / len(pair.api.latencies)
    return api / (pair.bare.server_cpu_seconds / len(pair.bare.latencies))


def run_load(server: Server, loads: list[Load], seconds: float) -> list[Outcome]:
    began = server.cpu_seconds()
    outcomes = asyncio.run(send_loads(server.port, loads, seconds=seconds))
    for outcome in outcomes:
        outcome.server_cpu_seconds = server.cpu_seconds() - began
    return outcomes


def polls(ids: list[str]) -> Callable[[], Request]:
    requests = [get(f"/jobs/{job_id}", expected=job_id) for job_id in ids]
    return lambda: random.choice(requests)


def posts() -> Callable[[], Request]:
    request = post("/jobs", json.dumps(BODY).encode(), status=202, expected='"status":"queued"')
    return lambda: request


def cursor_behind_half(system: System, size: int) -> str:
    """The cursor of the job in the middle of the list."""
    job_id = f"job_{max(1, size // 2):026}"
    with get_engine(system.settings).connect() as connection:
        created_at = connection.scalar(text("SELECT created_at FROM jobs WHERE id = :id"), {"id": job_id})
    return encode_cursor(created_at.astimezone(UTC), job_id)


if __name__ == "__main__":
    raise SystemExit(main())
