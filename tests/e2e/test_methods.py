"""Methods alone and together, a job of a few steps each, from POST to a student that loads.

`make test-methods` does it for every method and every pair that may meet; `make test` for some of them.
"""

from pathlib import Path

import pytest

from app.schemas.methods.combinations import lacks_rounds, why_not
from app.schemas.methods.registry import METHODS
from tests.e2e import student
from tests.e2e.system import Embedded
from tests.e2e.tiny import JOB

# With test_embedded, whose running system serves them too.
pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("embedded"), pytest.mark.timeout(900)]

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


def entry(name: str) -> dict[str, object]:
    return {"type": name, **{key: value for key, value in FEW_ROUNDS.items() if key in METHODS[name].model_fields}}


class TestFewSteps:
    def test_of_a_job_end_in_a_student_that_scores_as_reported(
        self, methods: tuple[str, ...], embedded: Embedded, tmp_path: Path
    ) -> None:
        main, *others = methods
        if lacks_rounds([METHODS[name].model_validate({}) for name in methods]):
            others.append("oversample")
        client = embedded.client
        posted = client.post_job(
            teacher=embedded.teacher,
            dataset=embedded.dataset,
            method=entry(main),
            combine=[entry(name) for name in others],
            training=TRAINING,
            baselines=[],
        )
        job = client.wait_until_succeeded(posted["id"], process=embedded.up)
        assert [job["method"]["type"], *(method["type"] for method in job["combine"])][: len(methods)] == [*methods]
        student.unpack(student.download(client.http, job["id"]), tmp_path)
        assert student.accuracy(tmp_path, "test") == pytest.approx(job["result"]["student"]["test"]["accuracy"])


class TestMethodsPage:
    def test_names_what_cannot_meet_and_a_job_that_tries_is_refused_with_the_reason(self, embedded: Embedded) -> None:
        client, inputs = embedded.client, {"teacher": embedded.teacher, "dataset": embedded.dataset}
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
