"""A checkpoint: everything that a resumed run needs to end as the run it replaces would have.

A folder `checkpoints/{number:08d}` of safetensors and one JSON file. It is written aside, every file and
the folder fsynced, then renamed: a folder of that name is whole. Random states are absent on purpose:
each stream is a function of the seed and the position (seed.py), and the position is here.
"""

import json
import os
import shutil
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.numpy import load_file as load_arrays
from safetensors.numpy import save_file as save_arrays
from safetensors.torch import load_file, save_file

from worker.distill.choice import ChoiceState, Chosen
from worker.distill.rows import Predictions, SyntheticRows
from worker.distill.strategies.base import RoundPlan

_FORMAT_VERSION = 6
# In 3 an objective had no state, up to 4 no row was spliced: a job that waits with such a checkpoint goes on from it.
# Up to 5 no arm waited; one in which none does is written as that, so that the release before goes on from it too.
_WITHOUT_WAITING = 5
_READABLE_VERSIONS = (3, 4, _WITHOUT_WAITING, _FORMAT_VERSION)
_STATE_FILE = "state.json"
_PROJECTION_FILE = "projection.safetensors"
# Releases that do not know it make the pass anew.
_TEACHER_PASS_FILE = "teacher_pass.safetensors"
# Nor do they know this one: they choose anew.
_CHOICE_FILE = "choice.safetensors"


@dataclass
class ArmPosition:
    """Where an arm's training stands. Every field is required, so none is forgotten on a resume."""

    round: int
    batch_in_round: int
    step: int  # optimiser steps taken
    rows_presented: int
    best_round: int  # -1 before the first validation
    best_accuracy: float
    best_loss: float
    rounds_without_gain: int
    window_loss_sum: float  # of the steps since the last logged training loss
    window_steps: int
    strategy: dict[str, Any]
    objective: dict[str, Any]
    rounds_done: list[dict[str, Any]]  # one record per finished round


@dataclass
class ArmState:
    """An arm in the middle of its training."""

    position: ArmPosition
    weights: dict[str, torch.Tensor]  # of the trainable parameters
    best_weights: dict[str, torch.Tensor]  # empty before the first validation
    optimizer: dict[str, torch.Tensor]  # "{parameter}/{state}", and what is trained instead of weights
    plan: RoundPlan | None  # of the round under way
    choice: ChoiceState | None  # of new rows for the round that is to come, if it is under way


@dataclass(frozen=True)
class TeacherPassState:
    """The teacher in the middle of its pass over the rows."""

    files: list[str]  # what is made of it, each named by all that decides its bits
    said: dict[str, Predictions]  # by split, to the first rows in the order of the pass


@dataclass
class RunState:
    """A whole run: the arms that are done, the one under way, and those that wait."""

    number: int  # of the checkpoint: optimiser steps of all arms, and more than any checkpoint before
    steps_before: int  # optimiser steps of the arms that are done
    environment: dict[str, Any]
    inputs: dict[str, str]  # what the run began with, by content hash
    inexact_by: list[str]  # what of these two differed when the run went on, at any time
    coordinates: np.ndarray | None  # (rows, 2) of the projection, once it is there: a resume never fits again
    finished: dict[str, dict[str, Any]]  # arm -> its record
    finished_weights: dict[str, dict[str, torch.Tensor]]  # arm -> best weights
    arm: str | None
    arm_state: ArmState | None
    waiting: dict[str, ArmState]  # arms that were begun, and go on once what they need is here again
    teacher_pass: TeacherPassState | None  # if it is under way
    preparation: dict[str, float]  # work by part that was done before the arms, in the progress's unit

    def begun(self) -> dict[str, ArmState]:
        """Every arm that is in the middle of its training."""
        under_way = {} if self.arm is None or self.arm_state is None else {self.arm: self.arm_state}
        return self.waiting | under_way


def save_checkpoint(folder: Path, state: RunState, *, keep: int) -> Path:
    """Write `state` under `folder`, durably, and drop all but the last `keep`; returns the new folder."""
    folder.mkdir(parents=True, exist_ok=True)
    final = folder / f"{state.number:08d}"
    temporary = folder / f".{state.number:08d}.partial"
    for leftover in folder.glob(".*"):  # of a process that was killed
        shutil.rmtree(leftover)
    temporary.mkdir()
    _write(temporary, state)
    for file in temporary.iterdir():
        _fsync(file)
    _fsync(temporary)
    if final.exists():  # and is not whole, or the run would have gone on from it
        shutil.rmtree(final)
    os.rename(temporary, final)
    _fsync(folder)
    for old in list_checkpoints(folder)[:-keep]:
        # Under its name it is whole or not there, also to whoever copies it at this moment.
        removed = folder / f".{old.name}.removed"
        os.rename(old, removed)
        shutil.rmtree(removed)
    return final


def list_checkpoints(folder: Path) -> list[Path]:
    """Whole checkpoints, oldest first."""
    return sorted(path for path in folder.glob("[0-9]*") if (path / _STATE_FILE).exists())


def load_latest(folder: Path) -> RunState | None:
    """The newest checkpoint, or None; what a kill left half-written has another name and is ignored."""
    found = list_checkpoints(folder)
    return _read(found[-1]) if found else None


def _write(folder: Path, state: RunState) -> None:
    record: dict[str, Any] = {
        "format_version": _FORMAT_VERSION if state.waiting else _WITHOUT_WAITING,
        "number": state.number,
        "steps_before": state.steps_before,
        "environment": state.environment,
        "inputs": state.inputs,
        "inexact_by": state.inexact_by,
        "finished": state.finished,
        "arm": state.arm,
        "arm_position": None,
        "plan_facts": None,
    }
    if state.coordinates is not None:
        save_arrays({"coordinates": state.coordinates}, folder / _PROJECTION_FILE)
    for arm, weights in state.finished_weights.items():
        save_file(weights, folder / _finished_file(arm))
    if state.arm_state is not None:
        record |= _write_arm(folder, "", state.arm_state)
    if state.waiting:
        record["waiting"] = {arm: _write_arm(folder, _waiting(arm), waits) for arm, waits in state.waiting.items()}
    if state.preparation:
        record["preparation"] = state.preparation
    if state.teacher_pass is not None:
        record["teacher_pass"] = {"files": state.teacher_pass.files}
        save_arrays(_teacher_pass_arrays(state.teacher_pass), folder / _TEACHER_PASS_FILE)
    (folder / _STATE_FILE).write_text(json.dumps(record), encoding="utf-8")


def _read(folder: Path) -> RunState:
    record = json.loads((folder / _STATE_FILE).read_text(encoding="utf-8"))
    if record["format_version"] not in _READABLE_VERSIONS:
        readable = ", ".join(map(str, _READABLE_VERSIONS))
        raise ValueError(
            f"checkpoint {folder.name} has format {record['format_version']}, this engine reads {readable}: finish the "
            "job with the release that began it, or start it anew."
        )
    projection = folder / _PROJECTION_FILE
    waiting = record.get("waiting", {})
    return RunState(
        number=record["number"],
        steps_before=record["steps_before"],
        environment=record["environment"],
        inputs=record["inputs"],
        inexact_by=record.get("inexact_by", []),
        coordinates=load_arrays(projection)["coordinates"] if projection.exists() else None,
        finished=record["finished"],
        finished_weights={arm: load_file(folder / _finished_file(arm)) for arm in record["finished"]},
        arm=record["arm"],
        arm_state=None if record["arm_position"] is None else _read_arm(folder, "", record),
        waiting={arm: _read_arm(folder, _waiting(arm), of_arm) for arm, of_arm in waiting.items()},
        teacher_pass=_read_teacher_pass(folder, record["teacher_pass"]) if "teacher_pass" in record else None,
        preparation=record.get("preparation", {}),
    )


def _write_arm(folder: Path, prefix: str, state: ArmState) -> dict[str, Any]:
    """Write the arm's tensors to files whose names begin with `prefix`; returns what the record has to say of it."""
    save_file(state.weights, folder / f"{prefix}model.safetensors")
    save_file(state.best_weights, folder / f"{prefix}best.safetensors")
    save_file(state.optimizer, folder / f"{prefix}optimizer.safetensors")
    if state.plan is not None:
        save_arrays(_plan_arrays(state.plan), folder / f"{prefix}round.safetensors")
    record = {"arm_position": asdict(state.position), "plan_facts": None if state.plan is None else state.plan.facts}
    if state.choice is None:
        return record
    save_arrays(_choice_arrays(state.choice), folder / f"{prefix}{_CHOICE_FILE}")
    parts = 0 if state.choice.chosen is None else state.choice.chosen.parts
    choice = {
        "by": state.choice.by,
        "work": state.choice.work,
        "part_work": state.choice.part_work,
        "led_by_sha256": state.choice.led_by_sha256,
        "parts": parts,
        "drawn_sha256": state.choice.drawn_sha256,
    }
    return record | {"choice": choice}


def _read_arm(folder: Path, prefix: str, record: dict[str, Any]) -> ArmState:
    plan_file = folder / f"{prefix}round.safetensors"
    position = {"objective": {}} | record["arm_position"]
    return ArmState(
        position=ArmPosition(**{field.name: position[field.name] for field in fields(ArmPosition)}),
        weights=load_file(folder / f"{prefix}model.safetensors"),
        best_weights=load_file(folder / f"{prefix}best.safetensors"),
        optimizer=load_file(folder / f"{prefix}optimizer.safetensors"),
        plan=_read_plan(load_arrays(plan_file), record["plan_facts"]) if plan_file.exists() else None,
        choice=_read_choice(folder / f"{prefix}{_CHOICE_FILE}", record["choice"]) if "choice" in record else None,
    )


def _choice_arrays(state: ChoiceState) -> dict[str, np.ndarray]:
    arrays = {} if state.losses is None else {"losses": state.losses}
    if state.chosen is not None:
        arrays |= {f"kept/{name}": array for name, array in state.chosen.kept.arrays().items()}
        arrays |= {"candidate_losses": state.chosen.losses, "kept_losses": state.chosen.kept_losses}
    for name, said in (("labelled", state.labelled), ("scored", state.scored)):
        if said is not None:
            arrays |= _arrays_of(said, name)
    return {name: np.ascontiguousarray(array) for name, array in arrays.items()}


def _read_choice(file: Path, record: dict[str, Any]) -> ChoiceState:
    arrays = load_arrays(file)
    chosen = None
    if record["parts"]:
        kept = _rows_of({name.removeprefix("kept/"): array for name, array in arrays.items()})
        chosen = Chosen(record["parts"], kept, arrays["candidate_losses"], arrays["kept_losses"])
    labelled, scored = (_predictions_of(arrays, name) for name in ("labelled", "scored"))
    return ChoiceState(
        by=record["by"],
        work=record["work"],
        part_work=record["part_work"],
        losses=arrays.get("losses"),
        led_by_sha256=record["led_by_sha256"],
        chosen=chosen,
        drawn_sha256=record["drawn_sha256"],
        labelled=labelled,
        scored=scored,
    )


def _teacher_pass_arrays(state: TeacherPassState) -> dict[str, np.ndarray]:
    arrays: dict[str, np.ndarray] = {}
    for split, said in state.said.items():
        arrays |= _arrays_of(said, split)
    return arrays


def _read_teacher_pass(folder: Path, record: dict[str, Any]) -> TeacherPassState:
    arrays = load_arrays(folder / _TEACHER_PASS_FILE)
    splits = [name.removesuffix("/logits") for name in arrays if name.endswith("/logits")]
    said = {split: found for split in splits if (found := _predictions_of(arrays, split)) is not None}
    return TeacherPassState(record["files"], said)


def _arrays_of(said: Predictions, name: str) -> dict[str, np.ndarray]:
    arrays = {f"{name}/logits": said.logits}
    return arrays if said.features is None else arrays | {f"{name}/features": said.features}


def _predictions_of(arrays: dict[str, np.ndarray], name: str) -> Predictions | None:
    logits = arrays.get(f"{name}/logits")
    return None if logits is None else Predictions(logits, arrays.get(f"{name}/features"))


def _waiting(arm: str) -> str:
    return f"waiting-{arm}-"


def _finished_file(arm: str) -> str:
    return f"finished-{arm}.safetensors"


def _plan_arrays(plan: RoundPlan) -> dict[str, np.ndarray]:
    arrays = {"rows": plan.rows}
    if plan.synthetic is not None:
        arrays |= plan.synthetic.arrays()
    return {name: np.ascontiguousarray(array) for name, array in arrays.items()}


def _read_plan(arrays: dict[str, np.ndarray], facts: dict[str, float]) -> RoundPlan:
    synthetic = _rows_of(arrays) if "anchors" in arrays else None
    return RoundPlan(arrays["rows"], synthetic, facts)


def _rows_of(arrays: dict[str, np.ndarray]) -> SyntheticRows:
    return SyntheticRows(*(arrays.get(field.name) for field in fields(SyntheticRows)))  # type: ignore[arg-type]


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
