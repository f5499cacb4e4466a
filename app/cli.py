"""The `stillhouse` command. Each subcommand imports what it needs, so `--version` and `--help` answer at once."""

import argparse
import sys
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return the process's exit status."""
    options = _parser().parse_args(arguments)
    return int(options.run(options))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="stillhouse", description="Distillation as a service.")
    parser.add_argument("--version", action="version", version=f"stillhouse {_version()}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    up = commands.add_parser(
        "up",
        help="start the API and a worker on this machine; Ctrl-C stops both",
        description="Start the API and one worker on SQLite and a folder (STILLHOUSE_HOME, default ~/.stillhouse).",
    )
    up.add_argument("--host", help="address to listen on (default: 127.0.0.1, this machine only)")
    up.add_argument("--port", type=_port, help="port to listen on (default: 8000; 0 takes a free one)")
    up.set_defaults(run=_up)

    demo = commands.add_parser(
        "demo",
        help="distil a real model through the API, download it and use it",
        description="Distil a real model through the HTTP API. Starts `stillhouse up` when no server answers.",
    )
    demo.add_argument("--url", help="address of a running Stillhouse (default: the one on this machine)")
    demo.add_argument("--port", type=_port, help="port of the one on this machine (default: 8000)")
    demo.add_argument("--output", type=Path, help="folder for the student (default: demo/ in STILLHOUSE_HOME)")
    demo.set_defaults(run=_demo)

    migrate = commands.add_parser("migrate", help="bring the database's tables up to date")
    migrate.set_defaults(run=_migrate)
    return parser


def _version() -> str:
    try:
        return version("stillhouse")
    except PackageNotFoundError:
        return "(not installed)"


def _port(text: str) -> int:
    number = int(text)
    if not 0 <= number <= 65535:
        raise argparse.ArgumentTypeError(f"{number} is not a port; ports go from 0 to 65535")
    return number


def _up(options: argparse.Namespace) -> int:
    _check_settings()
    from app import embedded

    try:
        embedded.up(host=options.host, port=options.port)
    except embedded.CannotStart as error:
        print(f"stillhouse up: {error}", file=sys.stderr)
        return 1
    return 0


def _demo(options: argparse.Namespace) -> int:
    _check_settings()
    from app.demo import story

    return story.run(url=options.url, port=options.port, output=options.output)


def _migrate(_: argparse.Namespace) -> int:
    _check_settings()
    from sqlalchemy.exc import DatabaseError

    from app.db.migrate import upgrade

    try:
        upgrade()
    except DatabaseError as error:
        print(f"stillhouse migrate: STILLHOUSE_DATABASE_URL cannot be used: {error.orig}", file=sys.stderr)
        return 1
    print("The database is up to date.")
    return 0


def _check_settings() -> None:
    """End with one line per setting that cannot be used, instead of a traceback."""
    from pydantic import ValidationError

    from app.settings import get_settings

    try:
        get_settings()
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
