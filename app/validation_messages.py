"""What a failed validation says to a person: the value received, its place, and the way out."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

# Fields that hold one of several models, or a list of them, told apart by their `type`. pydantic puts that type into
# the place of an error, where no caller would look for it.
TAGGED_FIELDS = frozenset({"method", "combine", "source"})
LONGEST_VALUE = 120
KINDS = {
    dict: "an object",
    list: "a list",
    str: "a string",
    bool: "true or false",
    int: "a number",
    float: "a number",
    type(None): "null",
}
EXPECTED = {
    "int_type": ("wrong_type", "send a whole number"),
    "int_parsing": ("wrong_type", "send a whole number in plain digits"),
    "int_from_float": ("wrong_type", "send a whole number"),
    "int_parsing_size": ("out_of_range", "send a smaller number"),
    "float_type": ("wrong_type", "send a number"),
    "float_parsing": ("wrong_type", "send a number"),
    "finite_number": ("out_of_range", "send a finite number"),
    "bool_type": ("wrong_type", "send true or false"),
    "bool_parsing": ("wrong_type", "send true or false"),
    "string_type": ("wrong_type", "send a string"),
    "string_unicode": ("wrong_type", "send well-formed Unicode"),
    "list_type": ("wrong_type", "send a list"),
    "dict_type": ("wrong_type", "send an object"),
    "model_type": ("wrong_type", "send an object"),
    "model_attributes_type": ("wrong_type", "send an object"),
}


@dataclass(frozen=True)
class Described:
    code: str
    message: str
    param: str | None


def describe(errors: Sequence[dict[str, Any]], body: Any) -> Described:
    """One sentence about the first error, and how many more there are."""
    described = _describe_one(errors[0], body)
    others = [place for error in errors[1:] if (place := _place(error["loc"], body)) != described.param]
    if not others:
        return described
    more = f" ({len(others)} more: {', '.join(dict.fromkeys(others))}.)"
    return Described(described.code, described.message + more, described.param)


def shown(value: Any) -> str:
    """A received value as it can stand in a message: as JSON, on one line, cut when it is long."""
    text = json.dumps(value, default=str)
    return text if len(text) <= LONGEST_VALUE else f"{text[:LONGEST_VALUE]}… ({len(text)} characters)"


def _describe_one(error: dict[str, Any], body: Any) -> Described:
    kind: str = error["type"]
    context: dict[str, Any] = error.get("ctx") or {}
    place = _place(error["loc"], body)
    value = error.get("input")
    if kind == "missing":
        if not place or place == "body":
            return Described("missing_body", "The request has no body. Send one JSON object.", None)
        return Described("missing_field", f"{place} is missing. Add it; GET /docs describes it.", place)
    if kind == "unknown_field":
        param = f"{place}.{context['field']}" if place else str(context["field"])
        return Described("unknown_field", f"{shown(param)} is not a field. {context['hint']}.", param)
    if kind == "union_tag_not_found":
        return Described(
            "missing_field",
            f"{place} is {shown(value)}, which has no type. Add {place}.type; GET /docs lists what it can be.",
            f"{place}.type",
        )
    if kind == "union_tag_invalid":
        return Described(
            "unknown_type" if place == "source" else "unknown_method",
            f"{place}.type is {shown(context['tag'])}, which is not known. It is one of {context['expected_tags']}.",
            f"{place}.type",
        )
    if kind in EXPECTED:
        code, way_out = EXPECTED[kind]
        message = f"{place or 'the body'} is {shown(value)} ({_kind(value)}); {way_out}."
        return Described(code, message, place or None)
    code, way_out = _constraint(kind, context)
    if code == "custom":
        return Described(kind, _custom_message(error, place, value), context.get("param", place) or None)
    return Described(code, f"{place or 'the body'} is {shown(value)}; {way_out}.", place or None)


def _constraint(kind: str, context: dict[str, Any]) -> tuple[str, str]:
    match kind:
        case "greater_than_equal":
            return "out_of_range", f"it must be at least {context['ge']:g}"
        case "greater_than":
            return "out_of_range", f"it must be more than {context['gt']:g}"
        case "less_than_equal":
            return "out_of_range", f"it must be at most {context['le']}"
        case "less_than":
            return "out_of_range", f"it must be less than {context['lt']}"
        case "literal_error" | "enum":
            return "unknown_value", f"it is one of {context['expected']}"
        case "string_too_short":
            return "out_of_range", f"it needs at least {context['min_length']} character(s)"
        case "string_too_long":
            return "out_of_range", f"it takes at most {context['max_length']} characters"
        case "too_short":
            return "out_of_range", f"it needs at least {context['min_length']} item(s)"
        case "too_long":
            return "out_of_range", f"it takes at most {context['max_length']} items"
        case "string_pattern_mismatch":
            return "wrong_form", f"it must match {context['pattern']}"
    return "custom", ""


def _custom_message(error: dict[str, Any], place: str, value: Any) -> str:
    message: str = error["msg"]
    if (error.get("ctx") or {}).get("param") is not None:
        return f"{message}."  # written for the whole body: it names its places itself
    return f"{place or 'the body'} is {shown(value)}: {message}."


def _place(loc: Sequence[Any], body: Any) -> str:
    """The place of an error as a caller would write it: `method.rounds`, `baselines[1]`, `limit`."""
    parts = list(loc[1:]) if loc and loc[0] in ("body", "query", "path", "header") else list(loc)
    current = body if loc and loc[0] == "body" else None
    place = ""
    field: Any = None
    for part in parts:
        if field in TAGGED_FIELDS and isinstance(current, dict) and current.get("type") == part:
            field = None
            continue
        # pydantic marks a key at fault so; and the values of a repeated parameter have no numbers for a caller.
        if part == "[key]" or (loc[0] == "query" and isinstance(part, int)):
            continue
        if isinstance(part, int) and not isinstance(current, dict):
            place += f"[{part}]"
        else:
            place += f".{part}" if place else str(part)
            field = part
        current = _child(current, part)
    return place


def _child(value: Any, part: Any) -> Any:
    try:
        return value[part]
    except (KeyError, IndexError, TypeError):
        return None


def _kind(value: Any) -> str:
    return KINDS.get(type(value), type(value).__name__)
