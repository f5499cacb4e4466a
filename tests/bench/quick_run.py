"""A bench with the model of a few thousand weights: its figures mean nothing; that everything was done once does."""

import subprocess
import sys
from pathlib import Path

_CHECKOUT = Path(__file__).resolve().parents[2]


def run_quick(module: str, page: Path) -> str:
    """Run `python -m module --quick` to its end; the page that it wrote."""
    run = subprocess.run(
        [sys.executable, "-m", module, "--quick", "--page", str(page)],
        cwd=_CHECKOUT,
        capture_output=True,
        text=True,
        check=False,
        timeout=280,
    )
    assert run.returncode == 0, run.stdout + run.stderr
    return page.read_text()
