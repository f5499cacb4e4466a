"""`stillhouse up`, from POST to download, undisturbed and disturbed. Real processes, queue, worker and engine."""

import json
import re
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import psutil
import pytest

from tests.e2e import student, tiny
from tests.e2e.system import Embedded, Json, Up, engines_of, environment, wait_for

# One running system serves them and those of test_methods, so they stay in one process.
pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("embedded"), pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def finished(embedded: Embedded) -> Json:
    """A job that nothing has disturbed, to compare the others with."""
    job_id = embedded.client.post_job(teacher=embedded.teacher, dataset=embedded.dataset)["id"]
    return embedded.client.wait_until_succeeded(job_id, process=embedded.up)


class TestPostToDownload:
    def test_by_the_program_of_the_docs(
        self, embedded: Embedded, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """Harm: the first program that somebody copies does not run."""
        text = (Path(__file__).parents[2] / "docs" / "data.md").read_text()
        (program,) = [block for block in re.findall(r"```python\n(.*?)```", text, re.DOTALL) if "import httpx" in block]
        ours = {"http://127.0.0.1:8000": embedded.up.address, "tch_demo": embedded.teacher, ": 48}": ": 16}"}
        for shown, replacement in ours.items():
            assert program.count(shown) == 1
            program = program.replace(shown, replacement)
        monkeypatch.chdir(tmp_path)
        Path("train.csv").write_bytes(tiny.csv_bytes("train"))
        exec(compile(program, "docs/data.md", "exec"), {})
        assert "'accuracy': " in capsys.readouterr().out
        (tmp_path / "student").mkdir()
        student.unpack(Path("student.tar.gz").read_bytes(), tmp_path / "student")
        assert json.loads(Path("student/metrics.json").read_text())["labels"] == sorted(tiny.WORDS)

    def test_student_loads_with_plain_transformers_and_scores_as_reported(
        self, embedded: Embedded, finished: Json, tmp_path: Path
    ) -> None:
        manifest = student.unpack(student.download(embedded.client.http, finished["id"]), tmp_path)
        result = finished["result"]
        assert manifest["content_sha256"] == result["content_sha256"]
        assert student.accuracy(tmp_path, "test") == pytest.approx(result["student"]["test"]["accuracy"])
        assert student.accuracy(tmp_path, "validation") == pytest.approx(result["student"]["validation"]["accuracy"])

    def test_student_has_learnt(self, finished: Json) -> None:
        result = finished["result"]
        assert result["teacher"]["test"]["accuracy"] > 0.6  # chance: 0.25
        assert result["student"]["test"]["accuracy"] > 0.6
        assert set(result["baselines"]) == {"fine_tune"}
        assert set(result["student"]["ahead_of"]) == {"teacher", "fine_tune"}
        assert result["student"]["parameters"] < result["teacher"]["parameters"]

    def test_job_tells_what_happened(self, embedded: Embedded, finished: Json) -> None:
        assert finished["terminal"]
        assert finished["progress"] == 1.0
        assert finished["attempt"] == 1
        phases = {event["payload"]["phase"] for event in embedded.client.events(finished["id"], "phase")}
        assert {"teacher_tuning", "projection", "training", "baseline", "exporting"} <= phases
        assert embedded.client.get(f"/jobs/{finished['id']}/metrics")


class TestKilledWorker:
    def test_engine_dies_and_the_job_ends_with_the_same_student(self, embedded: Embedded, finished: Json) -> None:
        client, up = embedded.client, embedded.up
        job_id = client.post_job(teacher=embedded.teacher, dataset=embedded.dataset)["id"]
        wait_for(lambda: client.events(job_id, "checkpoint"), 150.0, "checkpoint", process=up)
        worker = up.worker()
        engines = engines_of(worker)
        assert len(engines) == 1
        worker.kill()
        assert psutil.wait_procs(engines, timeout=30.0)[1] == []

        job = client.wait_until_succeeded(job_id, process=up)
        assert job["attempt"] == 2
        assert client.events(job_id, "resumed")
        assert job["result"]["content_sha256"] == finished["result"]["content_sha256"]
        assert up.worker().pid != worker.pid


class TestCtrlC:
    def test_stops_everything_and_the_next_start_finishes_the_job(self, embedded: Embedded, finished: Json) -> None:
        up = embedded.up
        job_id = embedded.client.post_job(teacher=embedded.teacher, dataset=embedded.dataset)["id"]
        wait_for(lambda: embedded.client.events(job_id, "checkpoint"), 150.0, "checkpoint", process=up)
        everything = up.descendants()
        assert engines_of(up.worker())
        assert up.stop(signal.SIGINT, seconds=30.0) == 0
        assert psutil.wait_procs(everything, timeout=30.0)[1] == []

        embedded.start_again()
        job = embedded.client.wait_until_succeeded(job_id, process=embedded.up)
        assert embedded.client.events(job_id, "resumed")
        assert job["result"]["content_sha256"] == finished["result"]["content_sha256"]

    def test_a_killed_up_leaves_no_process_behind(self, tmp_path: Path, teacher_folder: Path) -> None:
        up = Up(tmp_path, environment(tmp_path, teacher_dirs=teacher_folder.parent))
        everything = up.descendants()
        assert everything
        up.popen.kill()
        left = psutil.wait_procs(everything, timeout=25.0)[1]
        for process in left:
            process.kill()
        up.popen.wait()
        assert left == []


class TestSecondUp:
    def test_is_refused_for_the_same_home(self, embedded: Embedded) -> None:
        result = self.run_up(embedded.up.env, "0")
        assert result.returncode == 1
        assert f"Another `stillhouse up` already uses {embedded.up.home}" in result.stderr
        assert embedded.up.address in result.stderr

    def test_is_refused_for_a_taken_port(self, embedded: Embedded, tmp_path: Path) -> None:
        port = embedded.up.address.rsplit(":", 1)[1]
        result = self.run_up({**embedded.up.env, "STILLHOUSE_HOME": str(tmp_path)}, port)
        assert result.returncode == 1
        assert f"port {port}" in result.stderr
        assert "--port" in result.stderr

    def run_up(self, env: Mapping[str, str], port: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-P", "-m", "app.cli", "up", "--port", port]
        return subprocess.run(command, env=env, capture_output=True, text=True, timeout=60, check=False)


class TestSeeds:
    def test_demo_dataset_becomes_ready(self, embedded: Embedded) -> None:
        dataset = embedded.client.wait_until_ready("datasets", "dts_demo", process=embedded.up)
        assert dataset["rows"] == {"train": 2000, "validation": 400, "test": 600, "unlabelled": None}
        assert len(dataset["labels"]) == 20
        assert dataset["warnings"] == []

    def test_demo_teacher_becomes_ready(self, embedded: Embedded) -> None:
        teacher = embedded.client.wait_until_ready("teachers", "tch_demo", process=embedded.up)
        assert (teacher["family"], teacher["layers"]) == ("bert", 6)

    def test_demo_job_is_taken_with_them(self, embedded: Embedded) -> None:
        """Harm: the first command that somebody tries ends with a refusal."""
        from app.demo.materials import shipped

        client = embedded.client
        client.wait_until_ready("datasets", "dts_demo", process=embedded.up)
        client.wait_until_ready("teachers", "tch_demo", process=embedded.up)
        body = {**shipped().job, "teacher": "tch_demo", "dataset": "dts_demo"}
        response = client.http.post("/jobs", json=body)
        assert response.status_code == 202, response.text
        # It would take a minute.
        path = f"/jobs/{response.json()['id']}"
        assert client.http.post(f"{path}/cancel").status_code == 202
        wait_for(lambda: client.get(path)["status"] == "cancelled", 60.0, "end of the job", process=embedded.up)


class TestDemo:
    def test_takes_the_teacher_that_the_server_has(self, embedded: Embedded) -> None:
        """Harm: every run uploads the same ninety megabytes once more."""
        from app.client.api import Api
        from app.demo.materials import shipped
        from app.demo.story import _register_teacher

        with Api(embedded.up.address) as api:
            assert _register_teacher(api, shipped())["id"] == "tch_demo"

    def test_tells_the_whole_story(
        self, embedded: Embedded, finished: Json, teacher_folder: Path, tmp_path: Path
    ) -> None:
        import io

        from rich.console import Console

        from app.client.api import Api
        from app.demo.materials import Materials
        from app.demo.story import tell

        files = {split: tmp_path / f"{split}.csv" for split in tiny.ROWS}
        for split, path in files.items():
            path.write_bytes(tiny.csv_bytes(split))
        materials = Materials(
            dataset_name="words",
            dataset_files=files,
            seeded_teacher_id=None,
            teacher_name="tiny",
            teacher_folder=teacher_folder,
            job=tiny.JOB,
            sentences=("the otter met a crow", "one violet here"),
        )
        console = Console(file=io.StringIO(), width=110, highlight=False)
        with Api(embedded.up.address) as api:
            job = tell(console, api, materials, tmp_path / "out")
        assert isinstance(console.file, io.StringIO)
        text = console.file.getvalue()
        assert job["result"]["content_sha256"] == finished["result"]["content_sha256"]
        assert "the otter met a crow  →  animal" in text
        assert "student, 2 layers, SAGE" in text
        assert "fine-tuned alone" in text
        assert f"{embedded.up.address}/docs" in text
        assert f"{embedded.up.address}/jobs/{job['id']}" in text
        assert (tmp_path / "out" / job["id"] / "student" / "model.safetensors").is_file()
