"""The API's job and the engine's job are written twice, on purpose: here they are held against each other."""

from dataclasses import fields

import pytest

from app.schemas.jobs import JobCreate
from app.schemas.methods import METHODS as OFFERED
from worker.distill.config import MethodConfig, StudentConfig, TeacherTuningConfig, TrainingConfig, read_fields
from worker.distill.methods import METHODS as BUILT
from worker.distill.methods import build_method


def resolved(**changes: object) -> dict:  # type: ignore[type-arg]
    body = {"teacher": "tch_demo", "dataset": "dts_demo", "student": {"layers": 3}, "teacher_tuning": {}} | changes
    return JobCreate.model_validate(body).spec()


class TestMethods:
    def test_the_api_offers_exactly_what_the_engine_can_do(self) -> None:
        assert set(OFFERED) == set(BUILT)

    @pytest.mark.parametrize("method", sorted(OFFERED))
    def test_the_defaults_of_the_api_are_a_method_of_the_engine(self, method: str) -> None:
        """Harm: a job that the API takes and every worker refuses."""
        parameters = resolved(method={"type": method})["method"]
        built = build_method(MethodConfig(parameters.pop("type"), parameters))
        assert built.objective.needs_teacher == OFFERED[method].needs_teacher

    def test_a_baseline_is_a_whole_method(self) -> None:
        spec = resolved(method={"type": "sage", "temperature": 4.0}, baselines=["kd", "fine_tune"])
        for baseline in spec["baselines"]:
            parameters = dict(baseline)
            build_method(MethodConfig(parameters.pop("type"), parameters))
        assert spec["baselines"][0]["temperature"] == 4.0


class TestSections:
    @pytest.mark.parametrize(
        ("section", "kind"),
        [("training", TrainingConfig), ("student", StudentConfig), ("teacher_tuning", TeacherTuningConfig)],
    )
    def test_have_the_same_fields_on_both_sides(self, section: str, kind: type) -> None:
        spec = resolved()[section]
        assert set(spec) == {field.name for field in fields(kind)}
        read_fields(kind, spec, where=section)
