"""The API's job and the engine's job are written twice, on purpose: here they are held against each other."""

from dataclasses import asdict, fields
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from app.schemas.job_bodies import JobCreate
from app.schemas.methods.combinations import has_objective, is_whole, weight_of, why_not
from app.schemas.methods.registry import METHODS as OFFERED
from worker.distill import families as taught
from worker.distill.config import MethodConfig, StudentConfig, TeacherTuningConfig, TrainingConfig, read_fields
from worker.distill.errors import InvalidJob
from worker.distill.methods.rad import RobustMargins
from worker.distill.methods.registry import METHODS as BUILT
from worker.distill.methods.registry import Recipe, build_recipe
from worker.distill.methods.taid import InterpolatedTarget
from worker.distill.objectives import Answers, KnowledgeDistillation
from worker.distill.rows import Predictions
from worker.distill.strategies.guided import Guided
from worker.distill.strategies.guides import HighLoss, RowLoss
from worker.preparation import families as taken


def resolved(**changes: object) -> dict:  # type: ignore[type-arg]
    body = {"teacher": "tch_demo", "dataset": "dts_demo", "student": {"layers": 3}, "teacher_tuning": {}} | changes
    return JobCreate.model_validate(body).spec()


def recipe(*methods: dict[str, Any]) -> Recipe:
    configs = []
    for method in methods:
        parameters = dict(method)
        configs.append(MethodConfig(parameters.pop("type"), parameters))
    return build_recipe(configs)


PAIRS = [(first, second) for first in sorted(OFFERED) for second in sorted(OFFERED)]


class TestMethods:
    def test_the_api_offers_exactly_what_the_engine_can_do(self) -> None:
        assert set(OFFERED) == set(BUILT)

    @pytest.mark.parametrize("method", sorted(OFFERED))
    def test_the_defaults_of_the_api_are_a_method_of_the_engine(self, method: str) -> None:
        """Harm: a job that the API takes and every worker refuses."""
        spec = resolved(method={"type": method})
        built = recipe(spec["method"], *spec["combine"])
        named = [OFFERED[each["type"]] for each in (spec["method"], *spec["combine"])]
        assert built.objective.needs_teacher == any(model.needs_teacher for model in named)

    def test_a_baseline_is_a_whole_method(self) -> None:
        spec = resolved(method={"type": "sage", "temperature": 4.0}, baselines=["kd", "fine_tune"])
        for baseline in spec["baselines"]:
            recipe(baseline)
        assert spec["baselines"][0]["temperature"] == 4.0


class TestBaselines:
    @pytest.mark.parametrize("method", sorted(OFFERED))
    def test_what_the_api_takes_as_a_baseline_the_engine_can_train(self, method: str) -> None:
        """Harm: a job that the API takes and every worker refuses."""
        main = "sage" if method != "sage" else "kd"
        if is_whole(method):
            recipe(*resolved(method={"type": main}, baselines=[method])["baselines"])
        else:
            with pytest.raises(ValidationError, match=rf"baselines\[0\] is '{method}', which trains nothing by itself"):
                resolved(method={"type": main}, baselines=[method])

    def test_the_main_method_may_be_one_where_others_work_beside_it(self) -> None:
        """SAGE with TAID against SAGE: the job's own method, without what is combined with it."""
        spec = resolved(method={"type": "sage"}, combine=[{"type": "taid"}], baselines=["sage"])
        assert spec["baselines"] == [spec["method"]]
        with pytest.raises(ValidationError, match="which is the job's own method"):
            resolved(method={"type": "sage"}, baselines=["sage"])


class TestPairs:
    @pytest.mark.parametrize(("first", "second"), [pair for pair in PAIRS if why_not(*pair) is None])
    def test_what_the_api_lets_meet_the_engine_can_train(self, first: str, second: str) -> None:
        spec = resolved(method={"type": first}, combine=[{"type": second}])
        recipe(spec["method"], *spec["combine"])

    @pytest.mark.parametrize(("first", "second"), [pair for pair in PAIRS if why_not(*pair) is not None])
    def test_what_cannot_meet_is_refused_when_it_is_posted_and_both_are_named(self, first: str, second: str) -> None:
        with pytest.raises(ValidationError) as refused:
            resolved(method={"type": first}, combine=[{"type": second}])
        [error] = refused.value.errors()
        assert f"'{first}'" in error["msg"]
        assert f"'{second}'" in error["msg"]
        assert why_not(second, first) == why_not(first, second)

    def test_the_engine_too_refuses_two_objectives(self) -> None:
        spec = resolved(method={"type": "kd"})["method"]
        with pytest.raises(InvalidJob, match="kd and taid are 2 objectives"):
            recipe(spec, resolved(method={"type": "taid"})["method"])

    def test_where_no_method_has_an_objective_it_is_plain_distillation_and_the_job_says_so(self) -> None:
        assert [method["type"] for method in resolved(method={"type": "opdf"})["combine"]] == ["kd"]
        assert resolved(method={"type": "sage"}, combine=[{"type": "opdf"}])["combine"][1:] == []

    def test_an_objective_takes_the_place_of_sages_own(self) -> None:
        spec = resolved(method={"type": "sage"}, combine=[{"type": "taid"}])
        built = recipe(spec["method"], *spec["combine"])
        assert isinstance(built.objective, InterpolatedTarget)
        assert isinstance(built.strategy, Guided)
        assert isinstance(built.strategy.guide, HighLoss)
        assert isinstance(built.strategy.guide.score, KnowledgeDistillation)

    @pytest.mark.parametrize("method", ["sage", "oversample"])
    def test_rows_or_the_region_lead_as_the_job_says(self, method: str) -> None:
        for targeting, guide in (("rows", RowLoss), ("region", HighLoss)):
            built = recipe(resolved(method={"type": method, "targeting": targeting})["method"])
            assert isinstance(built.strategy, Guided)
            assert isinstance(built.strategy.guide, guide)

    def test_a_guide_leads_sage_and_without_rounds_it_gets_some(self) -> None:
        spec = resolved(method={"type": "sage"}, combine=[{"type": "rad"}])
        built = recipe(spec["method"], *spec["combine"])
        assert isinstance(built.strategy, Guided)
        assert isinstance(built.strategy.guide, RobustMargins)
        assert [method["type"] for method in resolved(method={"type": "rad"})["combine"]] == ["oversample"]
        with pytest.raises(InvalidJob, match="kd and rad have no rounds that could be led"):
            recipe(resolved(method={"type": "kd"})["method"], resolved(method={"type": "rad"})["method"])


def row_losses(*methods: dict[str, Any]) -> torch.Tensor:
    """(rows,) what the engine asks of rows that have no label."""
    draw = np.random.default_rng(0)
    features, classifier = draw.normal(size=(2, 12, 6)).astype(np.float32)
    logits = features @ classifier[:3].T
    built = recipe(*methods).objective
    built.begin(Predictions(logits, features, classifier[:3]), logits.argmax(1))
    none = torch.zeros(12, dtype=torch.bool)
    seen = {"student_features": torch.ones(12, 6), "teacher_features": torch.from_numpy(features)}
    return built(Answers(torch.zeros(12, 3), torch.from_numpy(logits), torch.zeros(12).long(), none, **seen)).detach()


class TestRowsWithoutLabel:
    """The API refuses a job that makes up rows and learns nothing from them."""

    @pytest.mark.parametrize("method", sorted(name for name, model in OFFERED.items() if weight_of(model)))
    def test_cost_nothing_where_the_weight_is_zero_and_something_else(self, method: str) -> None:
        model = OFFERED[method]
        labels = [] if has_objective([model.model_validate({})]) else [{"type": "kd", "alpha": 0.0}]

        def losses(weight: float) -> torch.Tensor:
            spec = resolved(method={"type": method, weight_of(model): weight}, combine=labels)
            return row_losses(spec["method"], *spec["combine"])

        assert (losses(0.0) == 0).all()
        assert (losses(1.0) > 0).all()

    def test_have_a_loss_by_pld_which_nothing_weighs(self) -> None:
        assert weight_of(OFFERED["pld"]) is None
        assert (row_losses(resolved(method={"type": "pld"})["method"]) > 0).all()


class TestSections:
    @pytest.mark.parametrize(
        ("section", "kind"),
        [("training", TrainingConfig), ("student", StudentConfig), ("teacher_tuning", TeacherTuningConfig)],
    )
    def test_have_the_same_fields_on_both_sides(self, section: str, kind: type) -> None:
        spec = resolved()[section]
        assert set(spec) == {field.name for field in fields(kind)}
        read_fields(kind, spec, where=section)


class TestFamilies:
    """What preparation takes as a teacher, the engine can teach from."""

    def test_are_the_same(self) -> None:
        assert set(taken.FAMILIES) == set(taught.FAMILIES)

    @pytest.mark.parametrize("name", sorted(taken.FAMILIES))
    def test_are_described_alike(self, name: str) -> None:
        checked, run = taken.FAMILIES[name], taught.FAMILIES[name]
        layers = f"{checked.prefix}{checked.layer_prefix}"
        assert (layers, checked.classifier) == (run.layers_path, run.classifier_path)
        assert checked.config_names["layers"][0] == run.layers_field
        assert checked.counts_positions_from_padding == run.counts_positions_from_padding
        assert (checked.distance_buckets is not None) == (run.relative_bias_path is not None)
        size = taken.ModelSize(vocabulary=9, max_positions=9, layers=1, hidden_size=4, heads=2, intermediate_size=8)
        parts = {f"{part}.{kind}" for part in asdict(run.layer_parts).values() for kind in ("weight", "bias")}
        assert set(checked.layer_shapes(size)) == parts
        assert set(checked.head_shapes(4)) == {f"{run.pooler_path}.{kind}" for kind in ("weight", "bias")}
