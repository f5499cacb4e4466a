import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from tests.worker.distill.tiny_runs import make_run

CHECKOUT = Path(__file__).resolve().parents[2]
RUN = "import sys; from pathlib import Path; from bench.engine import run; run(Path(sys.argv[1]))"
# What does not watch its standard input, as the programs of the peers.
DEAF = "import time; print('begun', flush=True); time.sleep(600)"
RUN_DEAF = f"""
import sys
from pathlib import Path
from bench.process import run_measured
log = Path(sys.argv[1]) / "engine.log"
run_measured([sys.executable, "-c", {DEAF!r}], log=log, environment={{}}, cwd=log.parent)
"""
DEADLINE_SECONDS = 60.0


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
class TestBenchThatIsKilled:
    def test_takes_the_engine_along(self, how: signal.Signals, tmp_path: Path) -> None:
        """Harm: the next run of the bench begins the same job in the folder that the engine left behind writes to."""
        folder = make_run(tmp_path / "run", training__epochs=100_000.0)
        assert not left_behind(RUN, folder, "engine started", how)

    def test_takes_a_peers_program_along(self, how: signal.Signals, tmp_path: Path) -> None:
        """Harm: the next run measures the same job beside the one left behind, and keeps what it took."""
        assert not left_behind(RUN_DEAF, tmp_path, "begun", how)


def left_behind(program: str, folder: Path, sign: str, how: signal.Signals) -> list[psutil.Process]:
    """What goes on of what `program` started, once it is killed; its log in the folder shows the `sign` before."""
    bench = subprocess.Popen([sys.executable, "-c", program, str(folder)], cwd=CHECKOUT)
    started: list[psutil.Process] = []
    try:
        log = folder / "engine.log"
        deadline = time.monotonic() + DEADLINE_SECONDS
        while not (log.exists() and sign in log.read_text()):
            assert bench.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.05)
        started = psutil.Process(bench.pid).children(recursive=True)
        assert started
        bench.send_signal(how)
        bench.wait(DEADLINE_SECONDS)
        _, alive = psutil.wait_procs(started, DEADLINE_SECONDS)
        return alive
    finally:
        bench.kill()
        bench.wait()
        for process in started:
            with suppress(psutil.NoSuchProcess):
                process.kill()
