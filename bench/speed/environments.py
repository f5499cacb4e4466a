"""A virtual environment for each peer, made once and kept in the cache."""

import functools
import json
import shutil
import subprocess
import sys
from pathlib import Path

from bench.report import CHECKOUT
from bench.results import cell_key

PEERS = Path(__file__).parent / "peers"
_CONSTRAINTS = CHECKOUT / "constraints.txt"
_READY = "ready"
_PACKAGES = ("torch", "transformers", "tokenizers", "numpy", "accelerate", "textbrewer", "torchdistill", "torchvision")
_LIST_VERSIONS = f"""
import json
from importlib.metadata import PackageNotFoundError, version
found = {{}}
for name in {_PACKAGES!r}:
    try:
        found[name] = version(name)
    except PackageNotFoundError:
        pass
print(json.dumps(found))
"""


def peer_python(name: str, cache: Path) -> Path:
    """The interpreter of the peer's environment; minutes and about 1.5 GB where it has to be made.

    What both have is installed in the versions that Stillhouse is tested with.
    """
    folder = _folder(name, cache)
    python = folder / "bin" / "python"
    if not has_peer_python(name, cache):
        print(f"Making the environment of {name}, once", flush=True)
        shutil.rmtree(folder, ignore_errors=True)
        subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
        pip = [str(python), "-m", "pip", "--disable-pip-version-check", "install", "--quiet"]
        files = ["--constraint", str(_CONSTRAINTS), "--requirement", str(_requirements(name))]
        subprocess.run([*pip, *files], check=True)
        (folder / _READY).touch()
    return python


def has_peer_python(name: str, cache: Path) -> bool:
    return (_folder(name, cache) / _READY).exists()


@functools.cache
def package_versions(python: Path) -> dict[str, str]:
    """Of the packages that decide how fast and how well a system is."""
    listed = subprocess.run([str(python), "-c", _LIST_VERSIONS], check=True, capture_output=True, text=True).stdout
    return dict(json.loads(listed))


def _requirements(name: str) -> Path:
    return PEERS / f"requirements-{name}.txt"


def _folder(name: str, cache: Path) -> Path:
    """Named by the requirements and by what the constraints say of the packages that matter."""
    pins = [line for line in _CONSTRAINTS.read_text().splitlines() if line.split("==")[0] in _PACKAGES]
    key = cell_key({"requirements": _requirements(name).read_text(), "pins": pins})
    return cache / "environments" / f"{name}-{key[:12]}"
