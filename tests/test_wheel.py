"""What `pip install` of a built wheel gives: the code, its data files and the migrations, away from the checkout."""

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the unpacked wheel, built from a copy: building leaves files beside its sources."""
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
    zipfile.ZipFile(wheel).extractall(scratch / "site")
    return scratch / "site"


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
        environment = {name: value for name, value in os.environ.items() if not name.startswith("STILLHOUSE_")}
        environment |= {"PYTHONPATH": str(site), "STILLHOUSE_HOME": str(tmp_path / "home")}
        command = [sys.executable, "-m", "app.cli", "migrate"]
        ended = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, check=True)
        assert "up to date" in ended.stdout
        assert (tmp_path / "home" / "stillhouse.db").is_file()
        where = [sys.executable, "-c", "import app, migrations; print(app.__file__, migrations.__file__)"]
        found = subprocess.run(where, env=environment, cwd=tmp_path, capture_output=True, text=True, check=True)
        assert found.stdout.count(str(site)) == 2, "the checkout was imported, not the wheel"
