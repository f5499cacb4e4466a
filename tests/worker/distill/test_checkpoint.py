import json
import math
import os
import shutil
import threading
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from worker.distill.checkpoint import (
    ArmPosition,
    ArmState,
    RunState,
    list_checkpoints,
    load_latest,
    save_checkpoint,
)
from worker.distill.strategies.base import RoundPlan


def state(number: int) -> RunState:
    return RunState(
        number=number,
        steps_before=number,
        environment={},
        inputs={},
        inexact_by=[],
        coordinates=None,
        finished={f"arm{arm}": {} for arm in range(8)},
        finished_weights={f"arm{arm}": {"w": torch.full((4,), float(number))} for arm in range(8)},
        arm=None,
        arm_state=None,
        waiting={},
        preparation={},
        teacher_pass=None,
    )


def arm_state(step: int) -> ArmState:
    """In the middle of a round."""
    position = ArmPosition(
        round=1,
        batch_in_round=2,
        step=step,
        rows_presented=16 * step,
        best_round=0,
        best_accuracy=0.5,
        best_loss=math.log(2),
        rounds_without_gain=0,
        window_loss_sum=1.5,
        window_steps=2,
        strategy={"position": 3},
        objective={},
        rounds_done=[{"round": 1}],
    )
    weights = {"w": torch.full((4,), float(step))}
    return ArmState(
        position=position,
        weights=weights,
        best_weights={"w": weights["w"] + 1},
        optimizer={"w/step": weights["w"] + 2},
        plan=RoundPlan(np.arange(step), None, {"region_rows": 7.0}),
        choice=None,
    )


class TestSaveCheckpoint:
    def test_one_that_is_removed_is_never_seen_in_part(self, tmp_path: Path) -> None:
        """Harm: the worker links a checkpoint aside while the engine removes it, and a half of one is stored as whole:
        the run that goes on from there begins anew, or fails."""
        has_ended = threading.Event()
        seen: list[set[str]] = []

        def copy_all() -> None:
            # As the worker does it: what is still there afterwards was whole throughout.
            number = 0
            while not has_ended.is_set():
                for name in list_names(tmp_path / "checkpoints"):
                    source, target = tmp_path / "checkpoints" / name, tmp_path / f"copy-{number}"
                    number += 1
                    try:
                        shutil.copytree(source, target, copy_function=os.link)
                    except OSError:
                        continue
                    if source.is_dir():
                        seen.append({file.name for file in target.iterdir()})

        copying = threading.Thread(target=copy_all)
        copying.start()
        try:
            for number in range(150):
                whole = {
                    file.name for file in save_checkpoint(tmp_path / "checkpoints", state(number), keep=1).iterdir()
                }
        finally:
            has_ended.set()
            copying.join()
        assert len(seen) > 20
        assert all(files == whole for files in seen)

    def test_is_on_the_disk_before_it_has_its_name_and_before_the_old_ones_go(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Harm: power fails, and the run has a checkpoint by name, but not by content; or has none at all."""
        save_checkpoint(tmp_path, state(3), keep=1)
        calls: list[Any] = []
        fsync, rename = os.fsync, os.rename

        def synced(descriptor: int) -> None:
            fsync(descriptor)
            calls.append(os.fstat(descriptor).st_ino)

        def renamed(old: Path, new: Path) -> None:
            rename(old, new)
            calls.append((old.name, new.name))

        monkeypatch.setattr(os, "fsync", synced)
        monkeypatch.setattr(os, "rename", renamed)
        saved = state(7)
        saved.arm, saved.arm_state, saved.coordinates = "student", arm_state(7), np.zeros((4, 2), np.float32)
        folder = save_checkpoint(tmp_path, saved, keep=1)
        files = {file.stat().st_ino for file in folder.iterdir()}
        assert len(files) == 8 + 4 + 1 + 1, "eight arms are done, one is under way; the map, and the state"
        assert set(calls[: len(files)]) == files
        assert calls[len(files) :] == [
            folder.stat().st_ino,
            (".00000007.partial", "00000007"),
            tmp_path.stat().st_ino,
            ("00000003", ".00000003.removed"),
        ]

    def test_takes_the_place_of_one_that_is_not_whole(self, tmp_path: Path) -> None:
        save_checkpoint(tmp_path, state(3), keep=2)
        (tmp_path / "00000007").mkdir()
        (tmp_path / "00000007" / "model.safetensors").write_bytes(b"half")
        (tmp_path / ".00000006.partial").mkdir()
        (tmp_path / ".00000002.removed").mkdir()
        latest = load_latest(tmp_path)
        assert latest is not None
        assert latest.number == 3
        save_checkpoint(tmp_path, state(7), keep=2)
        latest = load_latest(tmp_path)
        assert latest is not None
        assert latest.number == 7
        assert sorted(path.name for path in tmp_path.iterdir()) == ["00000003", "00000007"]
        assert [path.name for path in list_checkpoints(tmp_path)] == ["00000003", "00000007"]


class TestLoadLatest:
    def test_one_of_a_release_to_come_is_refused_with_the_way_out(self, tmp_path: Path) -> None:
        """Harm: after a downgrade a job goes on from what only looks like its checkpoint."""
        folder = save_checkpoint(tmp_path, state(3), keep=2)
        record = json.loads((folder / "state.json").read_text())
        (folder / "state.json").write_text(json.dumps(record | {"format_version": 7}))
        message = r"00000003 has format 7, this engine reads 3, 4, 5, 6: finish the job with the release that began it"
        with pytest.raises(ValueError, match=message):
            load_latest(tmp_path)


class TestArms:
    def test_that_wait_are_kept_beside_the_one_under_way(self, tmp_path: Path) -> None:
        """Harm: a student whose teacher has to be tuned again begins anew, or goes on from the teacher's weights."""
        saved = state(5)
        saved.arm, saved.arm_state, saved.waiting = "teacher_tuning", arm_state(5), {"student": arm_state(90)}
        save_checkpoint(tmp_path, saved, keep=2)
        loaded = load_latest(tmp_path)
        assert loaded is not None
        assert loaded.arm == "teacher_tuning"
        begun = loaded.begun()
        assert set(begun) == {"teacher_tuning", "student"}
        for name, wanted in saved.begun().items():
            found = begun[name]
            assert asdict(found.position) == asdict(wanted.position)
            for tensors in ("weights", "best_weights", "optimizer"):
                (value,) = getattr(found, tensors).values()
                (saved_value,) = getattr(wanted, tensors).values()
                assert torch.equal(value, saved_value)
            assert found.plan is not None
            assert wanted.plan is not None
            assert found.plan.rows.tolist() == wanted.plan.rows.tolist()
            assert found.plan.facts == wanted.plan.facts

    def test_of_which_none_waits_are_read_by_the_release_before(self, tmp_path: Path) -> None:
        """Harm: while workers are replaced one by one, an older one takes a job and can only fail it; or it goes on
        from a checkpoint of which it does not see all."""
        saved = state(5)
        saved.arm, saved.arm_state = "student", arm_state(5)
        versions = []
        for number, waiting in enumerate(({}, {"baseline.kd": arm_state(3)})):
            saved.number, saved.waiting = number, waiting
            folder = save_checkpoint(tmp_path, saved, keep=2)
            versions.append(json.loads((folder / "state.json").read_text())["format_version"])
        assert versions == [5, 6]


def list_names(folder: Path) -> list[str]:
    return [name for name in os.listdir(folder) if not name.startswith(".")] if folder.exists() else []
