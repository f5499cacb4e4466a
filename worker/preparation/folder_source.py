"""A teacher from a folder of the worker's machine, which must lie inside one that the operator allowed."""

import shutil
from collections.abc import Sequence
from pathlib import Path

from worker.preparation.errors import PreparationFailed, Tick, no_tick, quote
from worker.preparation.teacher_files import choose_files


def copy_folder(source: Path, folder: Path, *, allowed: Sequence[Path], tick: Tick = no_tick) -> None:
    """Copy the teacher's files from `source` into `folder`.

    A copy, because the folder may change while it is checked and while jobs use it. Links are followed
    and must end inside an allowed folder too.
    """
    _refuse_outside(source, allowed)
    if not source.is_dir():
        raise PreparationFailed(
            "teacher_files_missing",
            f"{source} is not a folder on the worker's machine. Check the path; every worker must see it.",
        )
    names = [path.name for path in source.iterdir() if path.is_file()]
    chosen = choose_files(names, place=str(source))
    for name in chosen:
        _refuse_outside(source / name, allowed)
    folder.mkdir(parents=True, exist_ok=True)
    for name in chosen:
        tick()
        shutil.copyfile((source / name).resolve(), folder / name)


def _refuse_outside(path: Path, allowed: Sequence[Path]) -> None:
    real = path.resolve()
    if any(real.is_relative_to(root.resolve()) for root in allowed):
        return
    where = quote(path) if real == path else f"{quote(path)} (really {quote(real)})"
    inside = ", ".join(str(root) for root in allowed) or "none is set"
    raise PreparationFailed(
        "teacher_folder_refused",
        f"{where} is outside the allowed teacher folders ({inside}). "
        "Move the model there, or add its folder to STILLHOUSE_TEACHER_DIRS on the workers.",
    )
