"""What `pip install` of a built wheel gives: the code, its data files and the migrations, away from the checkout."""

import contextlib
import os
import shutil
import sqlite3
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from a copy: building leaves files beside its sources."""
    scratch = tmp_path_factory.mktemp("wheel")
    source = scratch / "source"
    source.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    for package in ("app", "worker", "migrations"):
        shutil.copytree(ROOT / package, source / package, ignore=shutil.ignore_patterns("__pycache__"))
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(scratch), str(source)]
    subprocess.run(build, check=True, capture_output=True)
    [wheel] = scratch.glob("*.whl")
    return wheel


@pytest.fixture(scope="module")
def site(wheel: Path) -> Path:
    """A folder with the unpacked wheel."""
    site = wheel.parent / "site"
    zipfile.ZipFile(wheel).extractall(site)
    return site


def environment_with(*folders: Path, home: Path) -> dict[str, str]:
    """The environment of a process that finds modules in these folders, before those of the virtual environment."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("STILLHOUSE_")}
    return environment | {"PYTHONPATH": os.pathsep.join(map(str, folders)), "STILLHOUSE_HOME": str(home)}


class TestWheel:
    @pytest.mark.parametrize(
        "file",
        [
            "app/static/swagger-ui/swagger-ui-bundle.js",
            "app/static/swagger-ui/LICENSE",
            "app/demo/job.json",
            "app/demo/data/train.jsonl.gz",
            "app/demo/data/ATTRIBUTION.md",
            "migrations/env.py",
            "worker/distill/__main__.py",
        ],
    )
    def test_carries_the_files_that_are_not_imported(self, file: str, site: Path) -> None:
        assert (site / file).is_file()

    def test_migrates_a_database_of_its_own(self, site: Path, tmp_path: Path) -> None:
        environment = environment_with(site, home=tmp_path / "home")
        command = [sys.executable, "-m", "app.cli", "migrate"]
        ended = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, check=True)
        assert "up to date" in ended.stdout
        assert (tmp_path / "home" / "stillhouse.db").is_file()
        where = [sys.executable, "-c", "import app, migrations; print(app.__file__, migrations.__file__)"]
        found = subprocess.run(where, env=environment, cwd=tmp_path, capture_output=True, text=True, check=True)
        assert found.stdout.count(str(site)) == 2, "the checkout was imported, not the wheel"

    def test_installs_a_command_that_migrates(self, wheel: Path, tmp_path: Path) -> None:
        """Harm: a wheel with all its files that gives no working `stillhouse`."""
        target = tmp_path / "target"
        install = [sys.executable, "-m", "pip", "install", "--no-deps", "--no-index", "--no-compile", "--quiet"]
        subprocess.run([*install, "--target", str(target), str(wheel)], check=True, capture_output=True)
        dependencies = Path(sysconfig.get_path("purelib"))
        environment = environment_with(target, dependencies, home=tmp_path / "home")
        command = [target / "bin" / "stillhouse", "migrate"]
        ended = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, check=True)
        assert "up to date" in ended.stdout
        with contextlib.closing(sqlite3.connect(tmp_path / "home" / "stillhouse.db")) as database:
            assert database.execute("SELECT count(*) FROM jobs").fetchone() == (0,)
        where = [sys.executable, "-c", "import app; print(app.__file__)"]
        found = subprocess.run(where, env=environment, cwd=tmp_path, capture_output=True, text=True, check=True)
        assert found.stdout.startswith(str(target)), "the checkout was imported, not the wheel"
