from typing import Any

import pytest

from app.schemas.methods.base import MethodParameters
from app.schemas.methods.combinations import wastes_new_rows
from app.schemas.methods.registry import METHODS


def methods(*entries: dict[str, Any]) -> list[MethodParameters]:
    return [METHODS[entry["type"]].model_validate(entry) for entry in entries]


SAGE, ANCHORS = {"type": "sage"}, {"type": "random_anchors"}
# Plain distillation of its own, by the labels alone.
LABELS_SAGE = {"type": "sage", "alpha": 0.0}


class TestWastesNewRows:
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
            ([LABELS_SAGE, {"type": "sinkd", "weight": 0.0}, {"type": "nd", "weight": 0.0}], "sage"),
        ],
        ids=str,
    )
    def test_names_the_method_whose_loss_is_zero(self, named: list[dict[str, Any]], loss: str) -> None:
        found = wastes_new_rows(methods(*named))
        assert found is not None
        assert found.type == loss

    @pytest.mark.parametrize(
        "named",
        [
            [SAGE],
            [{"type": "kd", "alpha": 0.0}],
            [{"type": "oversample", "alpha": 0.0}],
            [{"type": "sage", "alpha": 0.0, "synthetic_ratio": 0.0}],
            [LABELS_SAGE, {"type": "taid"}],
            [LABELS_SAGE, {"type": "pld"}],
            [LABELS_SAGE, {"type": "pruned"}],
            [LABELS_SAGE, {"type": "nd"}],
            [{"type": "bd_kd", "weight": 0.0}, SAGE, {"type": "sinkd"}],
        ],
        ids=str,
    )
    def test_is_none_where_something_is_learnt_or_no_row_made_up(self, named: list[dict[str, Any]]) -> None:
        """Harm: a job is refused of which every row has its loss."""
        assert wastes_new_rows(methods(*named)) is None
