import os
import shutil
import threading
from pathlib import Path

import torch

from worker.distill.checkpoint import RunState, list_checkpoints, load_latest, save_checkpoint


def state(number: int) -> RunState:
    return RunState(
        number=number,
        steps_before=number,
        environment={},
        inputs={},
        coordinates=None,
        finished={f"arm{arm}": {} for arm in range(8)},
        finished_weights={f"arm{arm}": {"w": torch.full((4,), float(number))} for arm in range(8)},
        arm=None,
        arm_state=None,
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


def list_names(folder: Path) -> list[str]:
    return [name for name in os.listdir(folder) if not name.startswith(".")] if folder.exists() else []
