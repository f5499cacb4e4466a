"""Describes the methods from their own parameter models, so that the description can't differ from the check."""

from typing import Any

from app.schemas.methods.base import MethodParameters
from app.schemas.methods.combinations import why_not
from app.schemas.methods.registry import METHODS, MethodRead


def list_methods() -> list[MethodRead]:
    return [_describe(name, model) for name, model in METHODS.items()]


def _describe(name: str, model: type[MethodParameters]) -> MethodRead:
    defaults = model.model_validate({}).model_dump(exclude={"type"})
    return MethodRead(
        type=name,
        title=model.title,
        summary=model.summary,
        source=model.source,
        kind=model.kind,
        needs_teacher=model.needs_teacher,
        parameters=_parameters(model),
        defaults=defaults,
        not_with={other: reason for other in METHODS if (reason := why_not(name, other)) is not None},
    )


def _parameters(model: type[MethodParameters]) -> dict[str, Any]:
    schema = model.model_json_schema()
    properties = {name: value for name, value in schema.get("properties", {}).items() if name != "type"}
    return {"type": "object", "additionalProperties": False, "properties": properties}
