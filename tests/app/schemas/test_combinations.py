from typing import Any

import pytest

from app.schemas.methods.base import MethodParameters
from app.schemas.methods.combinations import makes_up_rows, wastes_rows_without_label
from app.schemas.methods.registry import METHODS


def methods(*entries: dict[str, Any]) -> list[MethodParameters]:
    return [METHODS[entry["type"]].model_validate(entry) for entry in entries]


SAGE, ANCHORS = {"type": "sage"}, {"type": "random_anchors"}
# Plain distillation of its own, by the labels alone.
LABELS_SAGE = {"type": "sage", "alpha": 0.0}


class TestWastesRowsWithoutLabel:
    @pytest.mark.parametrize(
        ("named", "loss"),
        [
            ([LABELS_SAGE], "sage"),
            ([{"type": "random_anchors", "alpha": 0.0}], "random_anchors"),
            ([SAGE, {"type": "kd", "alpha": 0.0}], "kd"),
            ([SAGE, {"type": "lelp", "alpha": 0.0}], "lelp"),
            ([{"type": "taid", "alpha": 0.0}, ANCHORS], "taid"),
            ([{"type": "bd_kd", "weight": 0.0}, SAGE, {"type": "opdf"}], "bd_kd"),
            ([SAGE, {"type": "pruned", "alpha": 0.0}], "pruned"),
            ([{"type": "kd", "alpha": 0.0}], "kd"),
            ([{"type": "oversample", "alpha": 0.0}], "oversample"),
            ([LABELS_SAGE, {"type": "sinkd", "weight": 0.0}, {"type": "nd", "weight": 0.0}], "sage"),
        ],
        ids=str,
    )
    def test_names_the_method_whose_loss_is_zero(self, named: list[dict[str, Any]], loss: str) -> None:
        found = wastes_rows_without_label(methods(*named))
        assert found is not None
        assert found.type == loss

    @pytest.mark.parametrize(
        "named",
        [
            [SAGE],
            [{"type": "fine_tune"}],
            [LABELS_SAGE, {"type": "taid"}],
            [LABELS_SAGE, {"type": "pld"}],
            [LABELS_SAGE, {"type": "pruned"}],
            [LABELS_SAGE, {"type": "nd"}],
            [{"type": "bd_kd", "weight": 0.0}, SAGE, {"type": "sinkd"}],
        ],
        ids=str,
    )
    def test_is_none_where_something_is_learnt(self, named: list[dict[str, Any]]) -> None:
        """Harm: a job is refused of which every row has its loss."""
        assert wastes_rows_without_label(methods(*named)) is None


def test_rows_are_made_up_where_the_ratio_is_above_zero() -> None:
    assert makes_up_rows(methods(SAGE))
    assert makes_up_rows(methods({"type": "kd"}, ANCHORS))
    assert not makes_up_rows(methods({"type": "kd"}))
    assert not makes_up_rows(methods({"type": "oversample"}))
    assert not makes_up_rows(methods({"type": "sage", "synthetic_ratio": 0.0}))
