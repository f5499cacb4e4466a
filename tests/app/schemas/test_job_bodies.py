from typing import Any

import pytest
from pydantic import ValidationError

from app.schemas.job_bodies import JobCreate, is_metadata_key
from app.schemas.methods.base import MethodParameters
from app.schemas.methods.oversample import Oversample
from app.schemas.methods.random_anchors import RandomAnchors
from app.schemas.methods.registry import METHODS
from app.schemas.methods.sage import Sage


def job(**changes: Any) -> JobCreate:
    return JobCreate.model_validate({"teacher": "tch_a", "dataset": "dts_a", "student": {"layers": 3}, **changes})


class TestSpec:
    def test_writes_out_every_default(self) -> None:
        assert job(teacher_tuning={}, baselines=["oversample"]).spec() == {
            "teacher": "tch_a",
            "dataset": "dts_a",
            "student": {"layers": 3, "hidden_size": "same", "init": "teacher_layers", "word_vectors": "trained"},
            "method": {
                "type": "sage",
                "temperature": 2.0,
                "alpha": 0.9,
                "rounds": 4,
                "warmup_epochs": 1.0,
                "synthetic_ratio": 0.5,
                "neighbors": 10,
                "targeting": "region",
                "anchor_quantile": 0.2,
                "scored_rows": 2_048,
                "lift": "splice",
                "candidates": 4.0,
                "early_stopping": True,
            },
            "combine": [],
            "training": {
                "epochs": 4.0,
                "batch_size": 32,
                "learning_rate": 2e-4,
                "warmup_ratio": 0.1,
                "weight_decay": 0.01,
                "max_length": 128,
                "precision": "auto",
                "seed": 7,
                "deterministic": False,
            },
            "teacher_tuning": {
                "epochs": 3.0,
                "batch_size": 32,
                "learning_rate": 1e-4,
                "warmup_ratio": 0.1,
                "weight_decay": 0.01,
                "seed": 7,
            },
            "baselines": [
                {
                    "type": "oversample",
                    "temperature": 2.0,
                    "alpha": 0.9,
                    "rounds": 4,
                    "warmup_epochs": 1.0,
                    "oversample_ratio": 0.5,
                    "neighbors": 10,
                    "targeting": "region",
                    "anchor_quantile": 0.2,
                    "scored_rows": 2_048,
                }
            ],
        }

    def test_a_baseline_that_the_job_names_is_what_it_is_there(self) -> None:
        """Harm: a comparison with another fraction of the rows than the one that was asked about."""
        pruned = {"type": "pruned", "fraction": 0.1, "alpha": 0.7}
        spec = job(method={"type": "sage"}, combine=[pruned], baselines=["pruned", "kd"]).spec()
        assert spec["baselines"][0] == spec["combine"][0]
        assert spec["baselines"][0]["alpha"] == 0.7

    def test_what_follows_from_a_methods_own_parameters_is_not_taken_over(self) -> None:
        (pruned,) = job(method={"type": "sage", "alpha": 0.9}, baselines=["pruned"]).spec()["baselines"]
        assert (pruned["fraction"], pruned["alpha"]) == (0.5, 0.778)

    def test_nor_is_it_by_other_methods(self) -> None:
        """Harm: "plain distillation" without its labels, since the pruned rows' teacher counts alone."""
        pruned = {"type": "pruned", "fraction": 0.1}
        spec = job(method=pruned, baselines=["kd", "sage"]).spec()
        assert spec["method"]["alpha"] == 1.0
        assert [baseline["alpha"] for baseline in spec["baselines"]] == [0.9, 0.9]
        spec = job(method=pruned | {"alpha": 0.7}, baselines=["kd"]).spec()
        assert (spec["method"]["alpha"], spec["baselines"][0]["alpha"]) == (0.7, 0.7)

    def test_plain_distillation_is_what_the_job_adds_to_it(self) -> None:
        """Harm: a comparison with plain distillation at another temperature than the job's own has."""
        spec = job(method={"type": "sinkd", "temperature": 4.0}, baselines=["kd"]).spec()
        assert spec["baselines"] == spec["combine"] == [{"type": "kd", "temperature": 2.0, "alpha": 0.9}]

    def test_gives_baselines_the_parameters_of_the_same_name(self) -> None:
        method = {"type": "sage", "temperature": 5.0, "alpha": 0.5, "neighbors": 4, "synthetic_ratio": 2.0}
        kd, control = job(method=method, baselines=["kd", "random_anchors"]).spec()["baselines"]
        assert kd == {"type": "kd", "temperature": 5.0, "alpha": 0.5}
        assert (control["neighbors"], control["synthetic_ratio"], control["rounds"]) == (4, 2.0, 4)
        assert control["lift"] == "splice"

    @pytest.mark.parametrize(
        ("method", "baseline", "name", "default"),
        [
            ({"type": "kd", "temperature": 4.0}, "pld", "temperature", 1.0),
            ({"type": "pld", "temperature": 4.0}, "kd", "temperature", 2.0),
            ({"type": "pld", "temperature": 4.0}, "sage", "temperature", 2.0),
            ({"type": "sinkd", "temperature": 4.0}, "sage", "temperature", 2.0),
            ({"type": "sinkd", "weight": 0.1024}, "bd_kd", "weight", 1.0),
            ({"type": "nd", "weight": 4.0}, "bd_kd", "weight", 1.0),
            ({"type": "llkd", "momentum": 0.9}, "taid", "momentum", 0.99),
        ],
    )
    def test_gives_baselines_nothing_that_shares_only_its_name(
        self, method: dict[str, Any], baseline: str, name: str, default: float
    ) -> None:
        """Harm: a method is judged by a parameter that was meant for another, and that spoils it."""
        (resolved,) = job(method=method, baselines=[baseline]).spec()["baselines"]
        assert resolved[name] == default

    @pytest.mark.parametrize("method", ["sage", "random_anchors"])
    def test_gives_baselines_the_share_of_added_rows_under_either_name(self, method: str) -> None:
        """Harm: a control that adds another share of rows than the method that it is to judge."""
        (control,) = job(method={"type": method, "synthetic_ratio": 2.0}, baselines=["oversample"]).spec()["baselines"]
        assert control["oversample_ratio"] == 2.0
        posted = job(method={"type": "oversample", "oversample_ratio": 2.0}, baselines=[method])
        assert posted.spec()["baselines"][0]["synthetic_ratio"] == 2.0

    def test_a_control_makes_its_rows_as_the_job_does(self) -> None:
        """Harm: a gain of the lift is taken for one of the anchors."""
        (control,) = job(method={"type": "sage", "lift": "shift"}, baselines=["random_anchors"]).spec()["baselines"]
        assert control["lift"] == "shift"

    def test_a_baseline_takes_over_what_was_said_and_not_the_methods_defaults(self) -> None:
        """Harm: "plain distillation" without its labels, since the method beside it has none by default."""
        (kd,) = job(method={"type": "taid"}, baselines=["kd"]).spec()["baselines"]
        assert kd == {"type": "kd", "temperature": 2.0, "alpha": 0.9}
        (kd,) = job(method={"type": "taid", "alpha": 1.0}, baselines=["kd"]).spec()["baselines"]
        assert kd == {"type": "kd", "temperature": 2.0, "alpha": 1.0}

    @pytest.mark.parametrize("control", [Oversample, RandomAnchors])
    def test_sages_controls_have_its_defaults(self, control: type[MethodParameters]) -> None:
        """Harm: SAGE is compared with a control of other rounds, and the difference is taken for SAGE's."""
        shared = set(control.model_fields) & set(Sage.model_fields) - {"type"}
        assert shared >= {"rounds", "warmup_epochs", "temperature", "alpha", "neighbors"}
        for name in shared:
            assert control.model_fields[name].default == Sage.model_fields[name].default, name

    @pytest.mark.parametrize("left_out", [{}, {"learning_rate": None}])
    def test_chooses_learning_rates_by_the_teachers_width(self, left_out: dict[str, Any]) -> None:
        """Harm: a BERT-base learns at four times the rate that suits it, and nobody is told."""
        spec = job(training=left_out, teacher_tuning=left_out).spec(768)
        assert (spec["training"]["learning_rate"], spec["teacher_tuning"]["learning_rate"]) == (5e-5, 2.5e-5)
        assert job(training=left_out).spec(768)["teacher_tuning"] is None

    def test_keeps_learning_rates_that_are_named(self) -> None:
        spec = job(training={"learning_rate": 2e-4}, teacher_tuning={"learning_rate": 1}).spec(768)
        assert (spec["training"]["learning_rate"], spec["teacher_tuning"]["learning_rate"]) == (2e-4, 1.0)

    def test_makes_whole_numbers_of_epochs_the_same_as_decimal_ones(self) -> None:
        assert job(training={"epochs": 4}).spec() == job(training={"epochs": 4.0}).spec()


class TestMeaning:
    def test_leaves_out_later_fields_that_say_nothing(self) -> None:
        """Harm: a request sent again after an upgrade makes a second job."""
        meaning = job(method={"type": "sage"}).meaning()
        assert not {"priority", "time_limit_seconds"} & set(meaning)
        assert meaning["student"] == {"layers": 3, "hidden_size": "same", "init": "teacher_layers"}
        assert not {"scored_rows", "lift", "candidates", "targeting"} & set(meaning["method"])
        assert meaning["method"]["anchor_quantile"] == 0.2

    def test_holds_later_fields_that_say_something(self) -> None:
        posted = job(
            priority=1, student={"layers": 3, "word_vectors": "frozen"}, method={"scored_rows": 500, "type": "sage"}
        )
        meaning = posted.meaning()
        assert meaning["priority"] == 1
        assert meaning["student"]["word_vectors"] == "frozen"
        assert meaning["method"]["scored_rows"] == 500

    def test_of_what_has_another_default_by_now_is_as_it_was(self) -> None:
        """Harm: a request sent again after an upgrade is refused, as of another body."""
        assert job(method={"type": "opdf"}).meaning()["method"]["alignment_weight"] == 1e-4
        assert job(method={"type": "opdf", "alignment_weight": 7}).meaning()["method"]["alignment_weight"] == 7


class TestWarmup:
    def test_below_the_epochs_is_accepted_for_every_method(self) -> None:
        for name, model in METHODS.items():
            method: dict[str, Any] = {"type": name}
            if "warmup_epochs" in model.model_fields:
                method["warmup_epochs"] = 0.49
            # What a guide leads has a warm-up too.
            led = [{"type": "oversample", "warmup_epochs": 0.49}] if model.kind == "guide" else []
            assert job(method=method, combine=led, training={"epochs": 0.5}).method.type == name

    @pytest.mark.parametrize(("epochs", "warmup"), [(0.5, 0.25), (1.0, 0.5), (1.5, 1.0)])
    def test_that_was_not_asked_for_fits_into_the_epochs(self, epochs: float, warmup: float) -> None:
        """Harm: a short job is refused by a field that its body does not have."""
        sage = job(training={"epochs": epochs}, baselines=["random_anchors"]).spec()
        assert (sage["method"]["warmup_epochs"], sage["baselines"][0]["warmup_epochs"]) == (warmup, warmup)
        guided = job(method={"type": "rad"}, training={"epochs": epochs}).spec()
        assert guided["combine"][0]["warmup_epochs"] == warmup

    def test_of_all_the_epochs_is_refused(self) -> None:
        with pytest.raises(ValidationError, match=r"warmup_epochs is 2\.0"):
            job(method={"type": "sage", "warmup_epochs": 2}, training={"epochs": 2})


class TestIsMetadataKey:
    @pytest.mark.parametrize("key", ["team", "a.b-c_D9", "x" * 40])
    def test_accepts_plain_keys(self, key: str) -> None:
        assert is_metadata_key(key)

    @pytest.mark.parametrize("key", ["", "a b", "a:b", "ä", "x" * 41, "a\n"])
    def test_refuses_others(self, key: str) -> None:
        assert not is_metadata_key(key)
