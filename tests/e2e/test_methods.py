"""Methods alone and together, a job of a few steps each, from POST to a student that loads.

`make test-methods` does it for every method and every pair that may meet; `make test` for some of them.
"""

from collections.abc import Iterator
from pathlib import Path

import pytest

from app.schemas.methods.combinations import lacks_rounds, why_not
from app.schemas.methods.registry import METHODS
from tests.e2e import student
from tests.e2e.system import Client, Up, environment
from tests.e2e.tiny import JOB

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("methods")]

SAMPLE = [
    ("taid",),
    ("opdf",),
    ("lelp", "opdf"),
    ("pld", "sinkd"),
    ("bd_kd", "nd"),
    ("sage", "pruned"),
    ("sage", "taid", "opdf", "nd"),
]
# Five steps and a bit; rounds of SAGE need a warm-up below the budget.
TRAINING = JOB["training"] | {"epochs": 0.35}
FEW_ROUNDS = {"rounds": 2, "warmup_epochs": 0.1, "neighbors": 5}


def everything() -> list[tuple[str, ...]]:
    names = list(METHODS)
    pairs = [(first, second) for i, first in enumerate(names) for second in names[i + 1 :]]
    return [*((name,) for name in names), *(pair for pair in pairs if why_not(*pair) is None)]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "methods" in metafunc.fixturenames:
        chosen = everything() if metafunc.config.getoption("--all-methods") else SAMPLE
        metafunc.parametrize("methods", chosen, ids=["+".join(methods) for methods in chosen])


@pytest.fixture(scope="module")
def up(tmp_path_factory: pytest.TempPathFactory, teacher_folder: Path) -> Iterator[Up]:
    home = tmp_path_factory.mktemp("home")
    started = Up(home, environment(home, teacher_dirs=teacher_folder.parent))
    try:
        yield started
    finally:
        started.end()


@pytest.fixture(scope="module")
def client(up: Up) -> Iterator[Client]:
    opened = Client(up.address)
    yield opened
    opened.http.close()


@pytest.fixture(scope="module")
def inputs(up: Up, client: Client, teacher_folder: Path) -> dict[str, str]:
    dataset, teacher = client.upload_dataset(), client.register_teacher(teacher_folder)
    client.wait_until_ready("datasets", dataset, process=up)
    client.wait_until_ready("teachers", teacher, process=up)
    return {"dataset": dataset, "teacher": teacher}


def entry(name: str) -> dict[str, object]:
    return {"type": name, **{key: value for key, value in FEW_ROUNDS.items() if key in METHODS[name].model_fields}}


class TestFewSteps:
    def test_of_a_job_end_in_a_student_that_scores_as_reported(
        self, methods: tuple[str, ...], up: Up, client: Client, inputs: dict[str, str], tmp_path: Path
    ) -> None:
        main, *others = methods
        if lacks_rounds([METHODS[name].model_validate({}) for name in methods]):
            others.append("oversample")
        posted = client.post_job(
            **inputs, method=entry(main), combine=[entry(name) for name in others], training=TRAINING, baselines=[]
        )
        job = client.wait_until_succeeded(posted["id"], process=up)
        assert [job["method"]["type"], *(method["type"] for method in job["combine"])][: len(methods)] == [*methods]
        student.unpack(student.download(client.http, job["id"]), tmp_path)
        assert student.accuracy(tmp_path, "test") == pytest.approx(job["result"]["student"]["test"]["accuracy"])


class TestMethodsPage:
    def test_names_what_cannot_meet_and_a_job_that_tries_is_refused_with_the_reason(
        self, client: Client, inputs: dict[str, str]
    ) -> None:
        described = {method["type"]: method for method in client.get("/methods")["data"]}
        reason = described["taid"]["not_with"]["pld"]
        body = {**JOB, **inputs, "method": {"type": "pld"}, "combine": [{"type": "opdf"}, {"type": "taid"}]}
        response = client.http.post("/jobs", json=body)
        assert response.status_code == 422
        error = response.json()["error"]
        assert (error["code"], error["param"]) == ("methods_cannot_meet", "combine[1]")
        assert error["message"] == (
            f"combine[1] is 'taid', which cannot be combined with 'pld': {reason}; leave one of them out."
        )
