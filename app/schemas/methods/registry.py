"""The methods that a job can name, one model each, whose fields and defaults are the documentation."""

from typing import TYPE_CHECKING, Annotated, Any, Literal, Union

from pydantic import Field

from app.schemas.base import Page, ResponseModel
from app.schemas.methods.base import MethodKind, MethodParameters
from app.schemas.methods.bd_kd import BdKd
from app.schemas.methods.fine_tune import FineTune
from app.schemas.methods.kd import KnowledgeDistillation
from app.schemas.methods.lelp import Lelp
from app.schemas.methods.llkd import Llkd
from app.schemas.methods.nd import Nd
from app.schemas.methods.opdf import Opdf
from app.schemas.methods.oversample import Oversample
from app.schemas.methods.pld import Pld
from app.schemas.methods.pruned import Pruned
from app.schemas.methods.rad import Rad
from app.schemas.methods.random_anchors import RandomAnchors
from app.schemas.methods.sage import Sage
from app.schemas.methods.sinkd import Sinkd
from app.schemas.methods.taid import Taid

METHODS: dict[str, type[MethodParameters]] = {
    "sage": Sage,
    "kd": KnowledgeDistillation,
    "fine_tune": FineTune,
    "random_anchors": RandomAnchors,
    "oversample": Oversample,
    "taid": Taid,
    "opdf": Opdf,
    "lelp": Lelp,
    "sinkd": Sinkd,
    "pld": Pld,
    "bd_kd": BdKd,
    "nd": Nd,
    "llkd": Llkd,
    "pruned": Pruned,
    "rad": Rad,
}

if TYPE_CHECKING:
    Method = MethodParameters
    MethodType = str
else:
    # Made of the dictionary, so that it is the only list of methods.
    Method = Annotated[Union[tuple(METHODS.values())], Field(discriminator="type")]  # noqa: UP007
    MethodType = Literal[tuple(METHODS)]


class MethodRead(ResponseModel):
    type: MethodType
    title: str
    summary: str
    source: str = Field(description="Where the method comes from.")
    kind: MethodKind = Field(
        description="`rows`: chooses or makes what is trained on. `subset`: leaves rows out before anything else. "
        "`guide`: leads the choice of rows. `objective`: what is learnt from the rows. `auxiliary`: a loss added to "
        "it. `gate`: which rows of a batch count. `parameterisation`: what the student's weights are in training."
    )
    needs_teacher: bool = Field(description="Whether the student learns from the teacher's outputs.")
    parameters: dict[str, Any] = Field(description="JSON schema of the parameters.")
    defaults: dict[str, Any] = Field(description="What each parameter is when a job leaves it out.")
    not_with: dict[str, str] = Field(description="The methods that it cannot be combined with, and why.")


class MethodPage(Page[MethodRead]):
    pass
