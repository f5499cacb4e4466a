"""A program that speaks the engine's protocol and does what its first argument says, in milliseconds.

`python -m tests.worker.scripted_engine PART RUN_DIR`. For what the worker does around a run; that the real
engine speaks the same protocol is shown in test_real_engine.py.
"""

import json
import os
import signal
import sys
import tarfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

from worker.distill import exit_codes
from worker.distill.cache_keys import wanted
from worker.distill.events import EventLog

STEP = 40


class Run:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.job = json.loads((folder / "job.json").read_text())
        self.events = EventLog(folder / "events.jsonl")
        self.is_stopped = False
        signal.signal(signal.SIGTERM, self._stop)
        threading.Thread(target=self._die_with_parent, daemon=True).start()

    def _stop(self, *_: object) -> None:
        self.is_stopped = True

    def wait_until_stopped(self) -> None:
        while not self.is_stopped:
            time.sleep(0.02)

    def _die_with_parent(self) -> None:
        os.read(0, 1)
        os._exit(1)

    def begin(self) -> None:
        resumed = sorted((self.folder / "checkpoints").glob("[0-9]*"))
        if resumed:
            step = json.loads((resumed[-1] / "state.json").read_text())["step"]
            # The real engine reads every file it knows the name of, so one of another checkpoint would be believed.
            files = {str(path.relative_to(resumed[-1])) for path in resumed[-1].rglob("*") if path.is_file()}
            assert files == {"state.json", "arms/model.safetensors"}, files
            self.events.emit("resumed", step=step, exact_resume=True)
        self.events.emit("phase", phase="training", round=1, rounds=2)
        progress = {"progress": 0.25, "eta_seconds": 12.5, "loss": 0.75}
        self.events.emit("progress", phase="training", round=1, rounds=2, **progress)

    def checkpoint(self, step: int) -> None:
        folder = self.folder / "checkpoints" / f"{step:08d}"
        (folder / "arms").mkdir(parents=True)
        (folder / "state.json").write_text(json.dumps({"step": step}))
        (folder / "arms" / "model.safetensors").write_bytes(b"weights %d" % step)
        self.events.emit("checkpoint", step=step, path=f"checkpoints/{folder.name}")

    def cache(self) -> None:
        """Store what the next job on the same inputs can use, unless the worker brought it."""
        kind, key = wanted(self.job)[0]
        folder = self.folder / "cache" / kind / key
        if folder.exists():
            self.events.emit("warning", code="cached", message=(folder / "logits.bin").read_text())
            return
        folder.mkdir(parents=True)
        (folder / "logits.bin").write_text("logits")
        self.events.emit("cache", kind=kind, key=key, path=str(folder.relative_to(self.folder)))

    def finish(self) -> None:
        student = self.folder / "artifact"
        (student / "onnx").mkdir(parents=True)
        (student / "config.json").write_text("{}")
        (student / "onnx" / "model.onnx").write_bytes(b"graph")
        with tarfile.open(self.folder / "artifact.tar.gz", "w:gz") as archive:
            archive.add(student, "student")
        self.events.emit("succeeded", result={"student": {"parameters": 7}})


def student(run: Run) -> int:
    run.begin()
    for step in range(3):
        run.events.metric("train/loss", step, 1.0 / (step + 1))
    run.events.metric("train/loss", 2, float("nan"))
    run.events.emit("round", arm="student", high_loss_mass=0.5)
    run.checkpoint(2 * STEP)
    run.cache()
    run.finish()
    return 0


def endless(run: Run) -> int:
    run.begin()
    run.wait_until_stopped()
    run.checkpoint(STEP)
    return 75


def checkpointing(run: Run) -> int:
    """Endless, with a checkpoint at once and none when it is stopped."""
    run.begin()
    run.checkpoint(STEP)
    time.sleep(600)
    return 0


def deaf(run: Run) -> int:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    run.begin()
    time.sleep(600)
    return 0


def on_a_device(run: Run) -> int:
    """Endless, on a GPU of whose memory it tells."""
    memory = {"device": "GPU of a test", "peak_bytes": 3_000_000_000, "total_bytes": 80_000_000_000}
    progress = {"progress": 0.1, "eta_seconds": None, "loss": None}
    run.events.emit("progress", phase="training", round=1, rounds=2, **progress, device_memory=memory)
    return endless(run)


def failing(run: Run) -> int:
    run.begin()
    run.checkpoint(STEP)
    run.events.emit("failed", code="nan_loss", message="The loss became NaN at step 3; lower the learning rate.")
    return 70


def crashing(run: Run) -> int:
    run.begin()
    raise RuntimeError("an unforeseen end")


def killed(run: Run) -> int:
    """Killed by somebody before it got anywhere."""
    run.begin()
    os.kill(os.getpid(), signal.SIGKILL)
    return 0


def killed_later(run: Run) -> int:
    """Killed after a new checkpoint, once the worker has taken note of it."""
    run.begin()
    run.checkpoint(len(list((run.folder / "checkpoints").glob("[0-9]*"))) * STEP + STEP)
    time.sleep(1.5)
    os.kill(os.getpid(), signal.SIGKILL)
    return 0


def doubting(run: Run) -> int:
    """Warns of something, which who goes on does not say again, and is killed after a checkpoint."""
    run.events.emit("warning", code="padding_in_texts", message="3 of 90 train rows contain '<pad>'.")
    return killed_later(run)


def stopped(run: Run) -> int:
    """Stopped by somebody who is not its worker, before it got anywhere."""
    run.begin()
    os.kill(os.getpid(), signal.SIGTERM)
    run.wait_until_stopped()
    return 75


def without_device(run: Run) -> int:
    """Wants a GPU and finds none."""
    run.events.emit("failed", code="device_lost", message="There is no GPU; start the worker anew.")
    return exit_codes.NO_DEVICE


def losing_device(run: Run) -> int:
    """The GPU fails before it got anywhere."""
    run.begin()
    run.events.emit("failed", code="device_lost", message="The GPU failed; look at the log of its machine.")
    return exit_codes.DEVICE_LOST


def greedy(run: Run) -> int:
    run.begin()
    held = b"x" * (500 * 1024**2)
    time.sleep(600)
    return len(held)


def pausing_student(run: Run) -> int:
    """A student that takes five seconds and checkpoints all the while, as fast as the disk lets it."""
    run.begin()
    for step in range(1, 51):
        run.checkpoint(step)
        run.events.metric("train/loss", step, 1.0)
        time.sleep(0.1)
    run.finish()
    return 0


PARTS: dict[str, Callable[[Run], int]] = {
    part.__name__: part
    for part in (
        student,
        endless,
        checkpointing,
        deaf,
        on_a_device,
        failing,
        crashing,
        killed,
        killed_later,
        doubting,
        stopped,
        without_device,
        losing_device,
        greedy,
        pausing_student,
    )
}

if __name__ == "__main__":
    sys.exit(PARTS[sys.argv[1]](Run(Path(sys.argv[2]))))
