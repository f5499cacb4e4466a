"""Which methods work together in one training."""

from app.schemas.methods.base import MethodParameters
from app.schemas.methods.registry import METHODS

_ONE_OF_A_KIND = {
    "objective": "both say by what loss the student learns",
    "rows": "both choose the rows that are trained on",
    "subset": "both say which rows there are",
    "guide": "both say what leads the rounds",
    "gate": "both say which rows of a batch count",
    "parameterisation": "both say what the student's weights are in training",
}
# What weighs all of a method's loss but for the label's part.
_WEIGHTS = ("alpha", "weight")


def why_not(first: str, second: str) -> str | None:
    """Why methods of these types cannot meet, or None."""
    one, other = METHODS[first], METHODS[second]
    if first == second:
        return "a method is named once"
    if one.kind == other.kind and one.kind in _ONE_OF_A_KIND:
        return _ONE_OF_A_KIND[one.kind]
    for alone, beside in ((one, other), (other, one)):
        # Of what leaves rows out only the loss that it has by itself asks the teacher.
        needs_teacher = beside.needs_teacher and beside.kind != "subset"
        if alone.kind == "objective" and not alone.needs_teacher and needs_teacher:
            return "one learns from the labels alone, the other from the teacher"
    return one.refuses.get(second) or other.refuses.get(first)


def is_whole(method: str) -> bool:
    """Whether the method is a training by itself."""
    alone = [METHODS[method].model_validate({})]
    return has_objective(alone) and not lacks_rounds(alone)


def lacks_rounds(methods: list[MethodParameters]) -> bool:
    """Whether there is a guide among these methods and nothing to be led."""
    kinds = {method.kind for method in methods}
    return "guide" in kinds and "rows" not in kinds


def has_objective(methods: list[MethodParameters]) -> bool:
    """Whether these methods say by what loss the student learns."""
    return any(method.kind == "objective" or method.has_default_objective for method in methods)


def weight_of(method: type[MethodParameters]) -> str | None:
    """The parameter that weighs what is learnt by the method from a row without a label; None where it has none."""
    return next((name for name in _WEIGHTS if name in method.model_fields), None)


def makes_up_rows(methods: list[MethodParameters]) -> bool:
    """Whether a training by these methods has rows that no dataset has: they have no label."""
    return any(getattr(method, "synthetic_ratio", 0) > 0 for method in methods)


def wastes_rows_without_label(methods: list[MethodParameters]) -> MethodParameters | None:
    """The method that brings the loss of a whole training, where nothing is learnt from a row without a label: what
    else there is of the loss weighs nothing."""
    losses = [_main_loss(methods), *(method for method in methods if method.kind == "auxiliary")]
    return losses[0] if all(_weighs_nothing(method) for method in losses) else None


def _main_loss(methods: list[MethodParameters]) -> MethodParameters:
    losses = [method for method in methods if has_objective([method])]
    # Of those that have one by themselves, the one that leaves rows out goes first.
    return max(losses, key=lambda method: (method.kind == "objective", method.kind == "subset"))


def _weighs_nothing(method: MethodParameters) -> bool:
    name = weight_of(type(method))
    return name is not None and bool(getattr(method, name) == 0)
