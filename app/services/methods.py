"""Describes the methods from their own parameter models, so that the description can't differ from the check."""

from typing import Any

from app.schemas.methods import METHODS, MethodParameters, MethodRead


def list_methods() -> list[MethodRead]:
    return [_describe(name, model) for name, model in METHODS.items()]


def _describe(name: str, model: type[MethodParameters]) -> MethodRead:
    defaults = model().model_dump(exclude={"type"})
    return MethodRead(
        type=name,  # type: ignore[arg-type]  # METHODS has a key for each literal
        title=model.title,
        summary=model.summary,
        source=model.source,
        needs_teacher=model.needs_teacher,
        parameters=_parameters(model),
        defaults=defaults,
    )


def _parameters(model: type[MethodParameters]) -> dict[str, Any]:
    schema = model.model_json_schema()
    properties = {name: value for name, value in schema.get("properties", {}).items() if name != "type"}
    return {"type": "object", "additionalProperties": False, "properties": properties}
