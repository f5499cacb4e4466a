"""`python -m worker`: one Stillhouse worker, configured by STILLHOUSE_* variables alone.

With STILLHOUSE_WORKER_PARENT_PIPE=1 its standard input is a pipe held by whoever started it; when that
closes, the worker stops as on SIGTERM. With STILLHOUSE_ENGINE_DEVICE=cuda it ends by itself once its GPU is lost, with
exit code 69.
"""

import os
import signal
import sys
import threading
import warnings

PARENT_PIPE = "STILLHOUSE_WORKER_PARENT_PIPE"
STANDARD_OUTPUT = 1


def main() -> None:
    """Run a Celery worker until it is told to stop."""
    # There Celery says its good-bye, in no form that a collector of logs reads; the log is on the other stream.
    os.dup2(os.open(os.devnull, os.O_WRONLY), STANDARD_OUTPUT)
    if os.environ.get(PARENT_PIPE) == "1":
        threading.Thread(target=_watch_parent, name="parent-pipe", daemon=True).start()
    from celery.exceptions import CPendingDeprecationWarning, SecurityWarning

    from worker.celery_app import celery_app, settings

    # It warns of running as root, as containers do, because of pickled messages; ours are JSON.
    warnings.simplefilter("ignore", SecurityWarning)
    # And at each lost connection about tasks acknowledged late, of which there are none.
    warnings.simplefilter("ignore", CPendingDeprecationWarning)
    celery_app.start(
        [
            "--quiet",  # no banner
            "worker",
            "--pool=threads",
            "--concurrency=1",
            "--without-gossip",
            "--without-mingle",
            "--without-heartbeat",
            f"--hostname=stillhouse-{os.getpid()}@%h",
            f"--loglevel={settings.log_level}",
        ]
    )


def _watch_parent() -> None:
    # Nothing is ever written to the pipe: the read ends when its last writer is gone.
    while os.read(sys.stdin.fileno(), 1024):
        pass
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    main()
