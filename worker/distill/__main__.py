"""The engine as a program: `python -m worker.distill RUN_DIR`.

Reads RUN_DIR/job.json and the folders it names; writes events.jsonl, checkpoints/, cache/ and artifact/.
It knows no database, no queue and no network, so it runs the same under a worker, in a debugger and by
hand. STILLHOUSE_ENGINE_DEVICE says on what it computes (device.py). How it ends: exit_codes.py and the last event.
"""

import argparse
import contextlib
import errno
import gc
import json
import os
import signal
import sys
import traceback
from pathlib import Path

from worker.distill import exit_codes
from worker.distill.errors import (
    DeviceLost,
    DiskFull,
    EngineError,
    NoDevice,
    OutOfMemory,
    Stopped,
    is_device_lost,
    is_out_of_memory,
)
from worker.distill.events import EventLog
from worker.distill.parent import die_with_parent
from worker.distill.run_folder import EVENTS, LOG_CONTEXT, PARENT_PIPE

_NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
# Of the failures with which a parent has to know whose fault they are; all others are FAILED.
_STATUSES: dict[type[EngineError], int] = {
    DiskFull: exit_codes.DISK_FULL,
    DeviceLost: exit_codes.DEVICE_LOST,
    NoDevice: exit_codes.NO_DEVICE,
}


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m worker.distill", description=__doc__)
    parser.add_argument("run_dir", type=Path, help="folder with job.json")
    folder: Path = parser.parse_args().run_dir
    # No threading.Event: a second signal that comes while its set() holds its lock would wait for the first, for ever.
    told_to_stop: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, _: told_to_stop.append(number))
    if os.environ.get(PARENT_PIPE) == "1":
        die_with_parent()
    # A step enters hundreds of short parallel regions. Threads that sleep between them cost a quarter of it; threads
    # that spin for long starve whoever else has work (the projection), and are starved in turn, many times over. So
    # they spin for some tens of microseconds. Read when torch loads the library, so set before.
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", "20000")
    # Deterministic cuBLAS needs this before CUDA starts; without training.deterministic it costs nothing.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    os.environ.setdefault("HF_HUB_OFFLINE", "1")  # everything was laid in the run folder
    if not folder.is_dir():
        print(f"{folder} is not a folder: pass the run folder that holds job.json.", file=sys.stderr)
        return exit_codes.FAILED
    events = EventLog(folder / EVENTS)
    context = json.loads(os.environ.get(LOG_CONTEXT, "{}"))
    with contextlib.suppress(OSError):  # a log on a full disk must not decide how the engine ends
        print("engine started", *(f"{name}={value}" for name, value in sorted(context.items())), file=sys.stderr)
    try:
        # Seconds, so after the signal handler stands. What is imported stays to the end: to look it through for garbage
        # again and again, meanwhile and ever after, would take a quarter more.
        gc.disable()
        import transformers.modeling_utils  # noqa: F401 - what the models of all families have in common

        from worker.distill.loop import distil

        gc.freeze()
        gc.enable()
        distil(folder, events, lambda: bool(told_to_stop))
    except Stopped:
        return exit_codes.STOPPED
    except Exception as error:
        return _fail(error, events)
    return exit_codes.SUCCEEDED


def _leave(status: int) -> None:
    """Exit with `status` whatever flushing the log says: Python would turn a full disk into a status of its own."""
    with contextlib.suppress(OSError):
        sys.stderr.flush()
    os._exit(status)


def _fail(error: Exception, events: EventLog) -> int:
    explained = _explain(error)
    with contextlib.suppress(OSError):  # no room even for a line: the exit code says it
        events.emit("failed", code=explained.code, message=str(explained))
    # The log may lie on the disk that is full: writing to it must not decide how the engine ends.
    with contextlib.suppress(OSError):
        if isinstance(error, EngineError):
            print(f"{explained.code}: {explained}", file=sys.stderr)
        else:
            traceback.print_exc()
    return _STATUSES.get(type(explained), exit_codes.FAILED)


def _explain(error: Exception) -> EngineError:
    """The failure that a person can act on behind what a library raised."""
    text = str(error)
    if isinstance(error, EngineError):
        return error
    if is_out_of_memory(error):
        return OutOfMemory(
            f"memory ran out ({text.splitlines()[0] if text else 'allocation failed'}): lower "
            "training.batch_size or training.max_length, or run on a larger worker."
        )
    if is_device_lost(error):
        return DeviceLost(
            f"the worker's GPU failed ({text.splitlines()[0]}): the kernel's log of its machine says more (NVIDIA's "
            "driver writes Xid there); then retry the job."
        )
    if (isinstance(error, OSError) and error.errno in _NO_ROOM) or "No space left on device" in text:
        where = getattr(error, "filename", None) or "the run folder"
        return DiskFull(
            f"the worker's disk has no room left while writing {where}: free space under STILLHOUSE_WORK_DIR or "
            "give the worker a larger disk, then retry the job."
        )
    if "File too large" in text:  # safetensors reports a file-size limit as text only
        return DiskFull("a file grew past the limit that the worker's system sets: raise it, then retry the job.")
    return EngineError(f"{type(error).__name__}: {text}")


if __name__ == "__main__":
    _leave(main())
