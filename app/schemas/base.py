"""What every request and response shape shares: strictness, text that can be stored, pages."""

import difflib
import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import Annotated, Any, ClassVar, Generic, Literal, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    GetJsonSchemaHandler,
    model_validator,
)
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, PydanticCustomError

Item = TypeVar("Item")
ImportStatusName = Literal["pending", "ready", "failed"]


def storable(text: str) -> str:
    """Refuse what a database cannot hold: a zero byte, or half of a surrogate pair."""
    if "\x00" in text:
        raise PydanticCustomError("wrong_form", "it holds a zero byte (\\u0000); leave it out")
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        raise PydanticCustomError("wrong_form", "it holds half of a surrogate pair; send well-formed Unicode") from None
    return text


def printable(text: str) -> str:
    """The text without what no UTF-8 response can carry."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def _plain_digits(value: Any) -> Any:
    # Otherwise "7\r", " 7" and "7_0" would be read as numbers.
    if isinstance(value, str) and not re.fullmatch(r"-?[0-9]{1,18}", value):
        raise PydanticCustomError("wrong_form", "send a whole number in plain digits")
    return value


Text = Annotated[str, AfterValidator(storable)]
ShortText = Annotated[str, Field(min_length=1, max_length=200), AfterValidator(storable)]
QueryInt = Annotated[int, BeforeValidator(_plain_digits)]


class _Closed(BaseModel):
    """Takes its own fields and no other."""

    model_config = ConfigDict(extra="forbid")

    @model_validator(mode="before")
    @classmethod
    def _refuse_unknown_fields(cls, data: Any) -> Any:
        # pydantic's own message would not say which fields there are.
        if isinstance(data, dict):
            for name in data:
                if name not in cls.model_fields:
                    raise PydanticCustomError(
                        "unknown_field",
                        "unknown field",
                        {"field": printable(str(name)), "hint": _hint(str(name), cls)},
                    )
        return data


class RequestModel(_Closed):
    """A part of a request body: no unknown field, no silent conversion ("32" is not 32)."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)

    # Fields that came after the first release.
    later_fields: ClassVar[frozenset[str]] = frozenset()
    # Of fields that have another default by now: what a body without them meant until then.
    earlier_defaults: ClassVar[Mapping[str, Any]] = MappingProxyType({})

    def meaning(self) -> dict[str, Any]:
        """All fields, but for later ones that say nothing: equal for what the first release would have taken alike."""
        meant = {}
        for name, value in self:
            says_nothing = value == type(self).model_fields[name].default
            if not (says_nothing and name in self.later_fields):
                meant[name] = _meaning(self.earlier_defaults.get(name, value) if says_nothing else value)
        return meant


class QueryModel(_Closed):
    """The query parameters of a route: an unknown one is refused, since it would filter nothing."""


class NoQuery(QueryModel):
    """Of a route that takes no query parameters."""


class ResponseModel(BaseModel):
    # A field with a default is always present in a response; the documentation should say so.
    model_config = ConfigDict(extra="forbid", json_schema_serialization_defaults_required=True)

    @classmethod
    def __get_pydantic_json_schema__(cls, core_schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        schema = super().__get_pydantic_json_schema__(core_schema, handler)
        # Closed to our own mistakes alone: a client that was generated from the description of this release has to
        # put up with a field of a later one.
        handler.resolve_ref_schema(schema)["additionalProperties"] = True
        return schema


class PageQuery(QueryModel):
    limit: QueryInt = Field(default=20, ge=1, le=100, description="Items on the page.")
    after: str | None = Field(
        default=None, max_length=200, description="The `next` of the page before; newest first when absent."
    )


class Page(ResponseModel, Generic[Item]):
    """One page of a list."""

    data: list[Item]
    has_more: bool = Field(description="Whether there is another page.")
    next: str | None = Field(description="Pass it as `after` to get the next page; null on the last page.")


def _meaning(value: Any) -> Any:
    if isinstance(value, RequestModel):
        return value.meaning()
    if isinstance(value, list):
        return [_meaning(item) for item in value]
    return value


def _hint(name: str, model: type[BaseModel]) -> str:
    known = list(model.model_fields)
    if not known:
        return "There are none here"
    close = difflib.get_close_matches(name, known, n=1)
    guess = f"Did you mean {close[0]!r}? " if close else ""
    return f"{guess}Known are: {', '.join(known)}"
