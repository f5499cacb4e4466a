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
DEADLINE_SECONDS = 60.0


class TestRun:
    @pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
    def test_the_engine_leaves_with_a_bench_that_is_killed(self, how: signal.Signals, tmp_path: Path) -> None:
        """Harm: the next run of the bench begins the same job in the folder that the engine left behind writes to."""
        folder = make_run(tmp_path / "run", training__epochs=100_000.0)
        bench = subprocess.Popen([sys.executable, "-c", RUN, str(folder)], cwd=CHECKOUT)
        engines: list[psutil.Process] = []
        try:
            log = folder / "engine.log"
            deadline = time.monotonic() + DEADLINE_SECONDS
            while not (log.exists() and "engine started" in log.read_text()):
                assert bench.poll() is None
                assert time.monotonic() < deadline
                time.sleep(0.05)
            engines = psutil.Process(bench.pid).children(recursive=True)
            assert engines
            bench.send_signal(how)
            bench.wait(DEADLINE_SECONDS)
            _, alive = psutil.wait_procs(engines, DEADLINE_SECONDS)
            assert not alive
        finally:
            bench.kill()
            bench.wait()
            for engine in engines:
                with suppress(psutil.NoSuchProcess):
                    engine.kill()
