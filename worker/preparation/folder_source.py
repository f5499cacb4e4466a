"""A teacher from a folder of the worker's machine, which must lie inside one that the operator allowed."""

import os
import shutil
import stat
from collections.abc import Sequence
from pathlib import Path

from app.domain.folders import ask_for_rights, open_all, why_closed
from app.domain.quoting import quote, quote_all
from worker.preparation.errors import PreparationFailed, Tick, no_tick
from worker.preparation.teacher_files import choose_files


def copy_folder(source: Path, folder: Path, *, allowed: Sequence[Path], tick: Tick = no_tick) -> None:
    """Copy the teacher's files from `source` into `folder`.

    A copy, because the folder may change while it is checked and while jobs use it. Links are followed
    and must end inside an allowed folder too.
    """
    _refuse_outside(source, allowed)
    if closed := why_closed(source.resolve()):
        raise PreparationFailed("teacher_folder_refused", closed)
    if not os.path.isdir(source):  # nor raises where the name is too long
        raise PreparationFailed(
            "teacher_files_missing",
            f"{source} is not a folder on the worker's machine. Check the path; every worker must see it.",
        )
    names = [path.name for path in source.iterdir() if _is_file(path)]
    chosen = choose_files(names, place=str(source))
    for name in chosen:
        _refuse_outside(source / name, allowed)
    _refuse_unreadable(source, chosen)
    folder.mkdir(parents=True, exist_ok=True)
    for name in chosen:
        tick()
        shutil.copyfile((source / name).resolve(), folder / name)


def _is_file(path: Path) -> bool:
    try:
        return stat.S_ISREG(path.stat().st_mode)
    except PermissionError:
        return True  # behind a link into a closed folder: refused by its name, if it is one of the teacher's
    except OSError:
        return False


def _refuse_unreadable(source: Path, names: Sequence[str]) -> None:
    # `save_pretrained`, for one, leaves model.safetensors to its owner alone.
    closed = [name for name in names if not os.access(source / name, os.R_OK)]
    if not closed:
        return
    # The command follows no links.
    place = (source / closed[0]).resolve().parent
    raise PreparationFailed(
        "teacher_folder_refused", ask_for_rights(f"{quote_all(closed)} of {source} cannot be read", open_all(place))
    )


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
