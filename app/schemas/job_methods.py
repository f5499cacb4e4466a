"""How the methods of one job fit together: what is refused, and what a body leaves to be worked out."""

from collections.abc import Iterable, Sequence
from typing import Any

from pydantic_core import PydanticCustomError

from app.schemas.methods.base import MethodParameters
from app.schemas.methods.combinations import has_objective, is_whole, lacks_rounds, why_not
from app.schemas.methods.kd import KnowledgeDistillation
from app.schemas.methods.oversample import Oversample
from app.schemas.methods.registry import Method

# Parameters that mean the same under two names.
_SAME_MEANING = {"oversample_ratio": "synthetic_ratio"}


def refuse_what_cannot_meet(methods: list[Method]) -> None:
    for index, second in enumerate(methods[1:]):
        for first in methods[: index + 1]:
            if reason := why_not(first.type, second.type):
                raise PydanticCustomError(
                    "methods_cannot_meet",
                    "combine[{index}] is '{second}', which cannot be combined with '{first}': {reason}; leave one of "
                    "them out",
                    {
                        "index": index,
                        "first": first.type,
                        "second": second.type,
                        "reason": reason,
                        "param": f"combine[{index}]",
                    },
                )


def refuse_baselines(baselines: Sequence[str], main: str, *, is_combined: bool) -> None:
    """`main` is the job's method, which is no baseline of itself unless it `is_combined` with others."""
    for index, baseline in enumerate(baselines):
        named = {"index": index, "value": baseline, "param": f"baselines[{index}]"}
        if baseline in baselines[:index]:
            raise PydanticCustomError(
                "duplicate_baseline",
                "baselines[{index}] is '{value}' for the second time; name each method once",
                named,
            )
        if baseline == main and not is_combined:
            raise PydanticCustomError(
                "baseline_is_method",
                "baselines[{index}] is '{value}', which is the job's own method; leave it out",
                named,
            )
        if not is_whole(baseline):
            raise PydanticCustomError(
                "baseline_is_no_training",
                "baselines[{index}] is '{value}', which trains nothing by itself; name it in combine, and as a "
                "baseline what it is to be compared with, such as 'kd'",
                named,
            )


def refuse_long_warmup(method: Method, place: str, epochs: float) -> None:
    if _leaves_no_rounds(method, epochs) and "warmup_epochs" in method.model_fields_set:
        raise PydanticCustomError(
            "warmup_too_long",
            "{place} is {warmup}, which leaves nothing of training.epochs {epochs} for the rounds of '{type}'; lower "
            "warmup_epochs or raise training.epochs",
            {
                "place": f"{place}.warmup_epochs",
                "type": method.type,
                "warmup": getattr(method, "warmup_epochs", None),
                "epochs": epochs,
                "param": f"{place}.warmup_epochs",
            },
        )


def completed_combine(main: Method, combine: Iterable[Method]) -> list[Method]:
    """`combine`, and what it and the job's method lack to be a whole training."""
    completed = list(combine)
    if lacks_rounds([main, *completed]):
        completed.append(Oversample())
    if not has_objective([main, *completed]):
        completed.append(KnowledgeDistillation())
    return completed


def taken_over(main: Method, baseline: type[MethodParameters]) -> Method:
    """The baseline by its defaults, but for what the body says of the job's method under the same name."""
    said = main.model_dump(include=main.model_fields_set - {"type"} - main.of_its_own)
    meant = {_SAME_MEANING.get(name, name): value for name, value in said.items()}
    known = set(baseline.model_fields) - baseline.of_its_own - baseline.derived
    meanings = {name: _SAME_MEANING.get(name, name) for name in known}
    return baseline.model_validate({name: meant[meaning] for name, meaning in meanings.items() if meaning in meant})


def written_out(method: Method, epochs: float) -> dict[str, Any]:
    """Every parameter; a warm-up that was left out is half of a budget that it would fill."""
    parameters = method.model_dump()
    if _leaves_no_rounds(method, epochs) and "warmup_epochs" not in method.model_fields_set:
        parameters["warmup_epochs"] = epochs / 2
    return parameters


def _leaves_no_rounds(method: Method, epochs: float) -> bool:
    warmup: float | None = getattr(method, "warmup_epochs", None)
    return warmup is not None and warmup >= epochs
