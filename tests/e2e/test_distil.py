"""`stillhouse distil` and `stillhouse fetch` as a person types them: real processes, worker and engine."""

import json
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.e2e import student, tiny
from tests.e2e.system import Embedded

# The system that they talk to serves the tests of this group.
pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("embedded"), pytest.mark.timeout(900)]

STILLHOUSE = [sys.executable, "-P", "-m", "app.cli"]


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Path]:
    paths = {split: tmp_path / f"{split}.csv" for split in tiny.ROWS}
    for split, path in paths.items():
        path.write_bytes(tiny.csv_bytes(split))
    return paths


def test_a_file_becomes_a_student(
    embedded: Embedded, files: dict[str, Path], teacher_folder: Path, tmp_path: Path
) -> None:
    body = tmp_path / "job.json"
    body.write_text(json.dumps(tiny.JOB))
    command = ["distil", str(files["train"]), "--validation", str(files["validation"]), "--test", str(files["test"])]
    command += ["--teacher", str(teacher_folder), "--job", str(body), "--method", "kd", "--set", "baselines=[]"]
    # Another tuned teacher than the other tests', which are to find none.
    command += ["--set", "teacher_tuning.seed=12"]
    # Of the home of the environment, where `up` runs.
    run = subprocess.run(
        [*STILLHOUSE, *command], cwd=tmp_path, env=embedded.up.env, capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stdout + run.stderr
    assert f"Stillhouse at {embedded.up.address}" in run.stdout
    assert "student, 2 layers, plain distillation" in run.stdout
    # In the working folder, and nothing beside it.
    assert {path.name for path in tmp_path.iterdir()} == {
        "student",
        "job.json",
        *(path.name for path in files.values()),
    }
    result = json.loads((tmp_path / "student" / "metrics.json").read_text())
    accuracy = student.accuracy(tmp_path / "student", "test")
    assert accuracy == pytest.approx(result["student"]["test"]["accuracy"])
    assert accuracy > 0.6  # chance: 0.25


def test_an_interrupted_one_is_fetched(embedded: Embedded, files: dict[str, Path], tmp_path: Path) -> None:
    """Harm: Ctrl-C, a closed lid, and hours of work have no way to the person who asked for them."""
    command = [*STILLHOUSE, "distil", str(files["train"]), "--teacher", embedded.teacher, "--layers", "1"]
    command += ["--method", "fine_tune", "--set", "training.max_length=16", "--output", str(tmp_path / "made")]
    with subprocess.Popen(
        command,
        env=embedded.up.env,
        stdout=subprocess.PIPE,
        text=True,
        # As at a terminal, also where the tests themselves run behind a shell that has Ctrl-C ignored.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    ) as running:
        assert running.stdout is not None
        said = ""
        while ": method fine_tune, student of 1 layers" not in said:
            line = running.stdout.readline()
            assert line, said
            said += line
        running.send_signal(signal.SIGINT)
        said += running.stdout.read()
    assert running.returncode == 130, said
    assert "it is tuned on the dataset first" in said  # the teacher is an encoder, and nothing was said of it
    assert not (tmp_path / "made").exists()

    # The command that it names, from its name on.
    way_back = shlex.split(next(line for line in said.splitlines() if line.startswith("  stillhouse fetch ")))
    fetch = [*STILLHOUSE, *way_back[1:]]
    run = subprocess.run(fetch, env=embedded.up.env, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout + run.stderr
    assert json.loads((tmp_path / "made" / "config.json").read_text())["num_hidden_layers"] == 1
