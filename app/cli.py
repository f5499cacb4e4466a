"""The `stillhouse` command. Each subcommand imports what it needs, so `--version` and `--help` answer at once."""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from app.version import installed_version

if TYPE_CHECKING:
    from app.settings import Settings


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return the process's exit status."""
    options = make_parser().parse_args(arguments)
    return int(options.run(options))


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="stillhouse", description="Distillation as a service.")
    parser.add_argument("--version", action="version", version=f"stillhouse {installed_version()}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    up = commands.add_parser(
        "up",
        help="start the API and a worker on this machine; Ctrl-C stops both",
        description="Start the API and one worker on SQLite and a folder (STILLHOUSE_HOME, default ~/.stillhouse).",
    )
    up.add_argument("--host", help="address to listen on (default: STILLHOUSE_HOST, else 127.0.0.1: this machine only)")
    up.add_argument("--port", type=_port, help="port to listen on (default: STILLHOUSE_PORT, else 8000; 0: a free one)")
    up.set_defaults(run=_up)

    demo = commands.add_parser(
        "demo",
        help="distil a real model through the API, download it and use it",
        description="Distil a real model through the HTTP API. Starts `stillhouse up` when no server with the demo's "
        "teacher answers.",
    )
    demo.add_argument(
        "--url",
        type=_url,
        help="address of a running Stillhouse, which is sent the demo's teacher where it has none (default: the one on "
        "this machine)",
    )
    demo.add_argument(
        "--port", type=_port, help="its port, where it is on this machine (default: that of `stillhouse up`)"
    )
    demo.add_argument("--output", type=Path, help="folder for the student (default: demo/ in STILLHOUSE_HOME)")
    demo.set_defaults(run=_demo)

    distil = commands.add_parser(
        "distil",
        help="distil a teacher on a file of rows and bring the student into a folder",
        description="Distil through the HTTP API: upload the rows and the teacher, post the job, wait, download the "
        "student and prove it. Starts `stillhouse up` when none runs on this machine.",
    )
    distil.add_argument("data", help="training rows (.csv, .tsv, .jsonl, .parquet), or the id of a dataset (dts_…)")
    distil.add_argument(
        "--teacher",
        required=True,
        help="a folder with a model, a repository of the hub (org/name or org/name@revision), a teacher's id (tch_…) "
        "or the id of a job whose student it is to be (job_…)",
    )
    distil.add_argument("--validation", type=Path, metavar="FILE", help="rows that choose the student")
    distil.add_argument("--test", type=Path, metavar="FILE", help="rows that measure it")
    distil.add_argument("--unlabelled", type=Path, metavar="FILE", help="more texts to learn from, without labels")
    distil.add_argument("--text-column", metavar="NAME", help="column of the text (default: found by its name)")
    distil.add_argument("--text-pair-column", metavar="NAME", help="column of the second text of a pair (likewise)")
    distil.add_argument("--label-column", metavar="NAME", help="column of the label (default: label)")
    distil.add_argument("--layers", type=int, help="layers of the student (default: half of the teacher's)")
    distil.add_argument("--method", metavar="NAME", help="how to distil, as GET /methods names it (default: the API's)")
    distil.add_argument(
        "--job",
        type=Path,
        metavar="FILE",
        help="the body of POST /jobs, or a part of it; its teacher and dataset are those of the command",
    )
    distil.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="FIELD=VALUE",
        help="a field of that body, such as training.epochs=2 or baselines='[\"kd\"]'; may be repeated",
    )
    _add_client_arguments(distil)
    distil.set_defaults(run=_distil)

    fetch = commands.add_parser(
        "fetch",
        help="wait for a job and bring its student into a folder",
        description="Wait for a job that was posted before, download its student and prove it.",
    )
    fetch.add_argument("job", help="the job's id (job_…)")
    _add_client_arguments(fetch)
    fetch.set_defaults(run=_fetch)

    api = commands.add_parser(
        "api",
        help="serve the HTTP API alone, for a cluster",
        description="Serve the HTTP API until SIGTERM. Settings come from STILLHOUSE_* variables.",
    )
    api.add_argument("--host", help="address to listen on (default: STILLHOUSE_HOST, else 127.0.0.1)")
    api.add_argument(
        "--port", type=_port, help="port to listen on (default: STILLHOUSE_PORT, else 8000; 0: a free one)"
    )
    api.set_defaults(run=_api)

    worker = commands.add_parser(
        "worker",
        help="run one worker, for a cluster",
        description="Do the work that the database holds, until SIGTERM; a job in hand goes on elsewhere.",
    )
    worker.set_defaults(run=_worker)

    scheduler = commands.add_parser(
        "scheduler",
        help="run the sweep and the retention, for a cluster",
        description="Put the work of dead workers back, delete what nobody needs any more, until SIGTERM.",
    )
    scheduler.set_defaults(run=_scheduler)

    migrate = commands.add_parser(
        "migrate",
        help="bring the database's tables up to date",
        description="Bring the database's tables up to date. Several at once take turns.",
    )
    migrate.add_argument("--check", action="store_true", help="change nothing: wait until another process has done it")
    migrate.add_argument(
        "--patience",
        type=_seconds,
        default=60.0,
        metavar="SECONDS",
        help="how long to wait for a database that is still starting, or, with --check, is not yet up to date "
        "(default: 60)",
    )
    migrate.set_defaults(run=_migrate)
    return parser


def _add_client_arguments(command: argparse.ArgumentParser) -> None:
    command.add_argument("--url", type=_url, help="address of a running Stillhouse (default: the one on this machine)")
    command.add_argument(
        "--output", type=Path, default=Path("student"), metavar="FOLDER", help="where to (default: student)"
    )


def _url(text: str) -> str:
    try:
        parts = urlsplit(text)
        is_one = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:  # a port or an address in brackets that is none
        is_one = False
    if not is_one:
        raise argparse.ArgumentTypeError(f"{text} is no address of a server, such as http://127.0.0.1:8000")
    return text


def _port(text: str) -> int:
    try:
        number = int(text)
    except ValueError:
        number = -1
    if not 0 <= number <= 65535:
        raise argparse.ArgumentTypeError(f"{text} is not a port; ports go from 0 to 65535")
    return number


def _seconds(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = -1.0
    if not 0 <= number < float("inf"):
        raise argparse.ArgumentTypeError(f"{text} is no number of seconds; give 0 or more")
    return number


def _up(options: argparse.Namespace) -> int:
    _check_settings()
    from app import embedded
    from app.server import CannotStart

    try:
        embedded.up(host=options.host, port=options.port)
    except CannotStart as error:
        print(f"stillhouse up: {error}", file=sys.stderr)
        return 1
    return 0


def _demo(options: argparse.Namespace) -> int:
    _check_settings()
    from app.demo import story

    return story.run(url=options.url, port=options.port, output=options.output)


def _distil(options: argparse.Namespace) -> int:
    _check_settings()
    from app.client import arguments
    from app.client.api import ClientError
    from app.client.distil import run_distil

    try:
        data = arguments.read_dataset_argument(
            options.data,
            {part: getattr(options, part) for part in ("validation", "test", "unlabelled")},
            {part: getattr(options, part) for part in ("text_column", "text_pair_column", "label_column")},
        )
        teacher = arguments.read_teacher_argument(options.teacher, is_far=options.url is not None)
        body = arguments.read_job_body(
            options.job, layers=options.layers, method=options.method, assignments=options.set
        )
    except ClientError as error:
        print(f"stillhouse distil: {error}", file=sys.stderr)
        return 2
    return run_distil(data=data, teacher=teacher, body=body, url=options.url, output=options.output)


def _fetch(options: argparse.Namespace) -> int:
    _check_settings()
    from app.client.distil import run_fetch

    return run_fetch(job_id=options.job, url=options.url, output=options.output)


def _api(options: argparse.Namespace) -> int:
    settings = _check_settings()
    from app.server import CannotStart, serve

    try:
        serve(settings, host=options.host, port=options.port)
    except CannotStart as error:
        print(f"stillhouse api: {error}", file=sys.stderr)
        return 1
    return 0


def _worker(_: argparse.Namespace) -> int:
    _check_settings()
    from app.worker_process import WORKER_COMMAND, describe_missing_packages

    advice = describe_missing_packages()
    if not advice:
        # In this process's place, so that signals reach it.
        os.execv(WORKER_COMMAND[0], WORKER_COMMAND)
    print(f"stillhouse worker: {advice}", file=sys.stderr)
    return 1


def _scheduler(_: argparse.Namespace) -> int:
    settings = _check_settings()
    from app import scheduler

    return 0 if scheduler.run(settings) else 1


def _migrate(options: argparse.Namespace) -> int:
    settings = _check_settings()
    import logging

    from sqlalchemy.exc import DatabaseError

    from app.db.migrate import NewerDatabase, upgrade
    from app.db.waiting import DatabaseNotReady, wait_for_database, wait_for_migrations
    from app.logging import configure_logging

    configure_logging(settings, service="migrate")
    # Elsewhere it is kept quiet; here the migrations are what happens.
    logging.getLogger("alembic.runtime.migration").setLevel(logging.INFO)
    try:
        wait_for_database(settings, patience_seconds=options.patience)
        if options.check:
            wait_for_migrations(settings, patience_seconds=options.patience)
        else:
            upgrade(settings)
    except (DatabaseNotReady, NewerDatabase) as error:
        print(f"stillhouse migrate: {error}", file=sys.stderr)
        return 1
    except DatabaseError as error:
        print(f"stillhouse migrate: STILLHOUSE_DATABASE_URL cannot be used: {error.orig}", file=sys.stderr)
        return 1
    except OSError as error:
        print(f"stillhouse migrate: cannot write the database file of the embedded mode: {error}", file=sys.stderr)
        return 1
    print("The database is up to date.")
    return 0


def _check_settings() -> "Settings":
    """The settings; ends with one line per setting that cannot be used, instead of a traceback."""
    from pydantic import ValidationError

    from app.settings import get_settings

    try:
        return get_settings()
    except ValidationError as error:
        for problem in error.errors():
            if problem["type"] == "value_error":  # a sentence of our own, which shows no password of a URL
                print(f"stillhouse: {problem['ctx']['error']}", file=sys.stderr)
            else:
                name = "_".join(("STILLHOUSE", *map(str, problem["loc"]))).upper()
                print(f"stillhouse: {name} is {problem['input']!r}: {problem['msg']}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    sys.exit(main())
