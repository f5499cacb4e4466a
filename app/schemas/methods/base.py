"""What every method's parameters share, and the fields that several have."""

from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from app.schemas.base import RequestModel

MethodKind = Literal["rows", "subset", "guide", "objective", "auxiliary", "gate", "parameterisation"]
Temperature = Annotated[
    float,
    Field(ge=0.1, le=100, description="Softens both models' probabilities before they are compared."),
]
Alpha = Annotated[
    float,
    Field(ge=0, le=1, description="Weight of the teacher term; the hard labels get 1 - alpha."),
]
# Of the methods that go where the loss is high.
ScoringAlpha = Annotated[
    float,
    Field(
        ge=0,
        le=1,
        description="Weight of the teacher term; the hard labels get 1 - alpha. With `targeting: region` rows are "
        "scored by it too; with `rows`, on a dataset with unlabelled rows, or led by `rad`, it has no meaning where "
        "another method brings the loss.",
    ),
]
Rounds = Annotated[int, Field(ge=1, le=100, description="How often new rows are chosen.")]
WarmupEpochs = Annotated[
    float,
    Field(
        ge=0,
        le=1000,
        description="Training by the job's loss, on real rows alone, before the first round, in epochs of training "
        "rows. It is part of the budget, so it stays below `training.epochs`. Left out where these are 1 or less it is "
        "half of them.",
    ),
]
Neighbors = Annotated[
    int,
    Field(
        ge=2,
        le=100,
        description="Nearest rows of a row in the 2-D projection: with one of them a new row is made, and over the "
        "scored ones among them the loss of a region is averaged.",
    ),
]
AnchorQuantile = Annotated[
    float,
    Field(
        gt=0,
        le=1,
        description="Share of the training rows, those of highest smoothed loss, drawn from by `targeting: region`.",
    ),
]
Targeting = Annotated[
    Literal["rows", "region"],
    Field(
        description="Where the student is taken to be weak. `rows`: at each scored row by its own distance to the "
        "teacher; of its neighbours too those far from it are preferred. `region`: where the mean loss of the scored "
        "rows around is high in the projection."
    ),
]
ScoredRows = Annotated[
    int,
    Field(
        ge=100,
        le=10_000_000,
        description="Training rows whose loss is looked at before a round, drawn anew for each; all where there are "
        "fewer. With `targeting: rows` it is they that are drawn from, with `region` any other row is taken to be like "
        "the nearest of them in the projection.",
    ),
]
SyntheticRatio = Annotated[
    float, Field(ge=0, le=4, description="Synthetic rows for each real row in a round; 0 trains on real rows alone.")
]
Candidates = Annotated[
    float,
    Field(
        ge=1,
        le=16,
        description="Synthetic rows made and labelled for each one that is kept: those on which the student is "
        "farthest from the teacher. 1 keeps all.",
    ),
]

Lift = Annotated[
    Literal["splice", "shift"],
    Field(
        description="How a new row is made between a row and one of its neighbours in the projection. `splice` puts a "
        "run of the neighbour's words among the row's; `shift` moves the word vectors of a row together, by as much as "
        "brings their mean to a point between the two."
    ),
]


class MethodParameters(RequestModel):
    """The parameters of one method, beside its `type`."""

    title: ClassVar[str]
    summary: ClassVar[str]
    source: ClassVar[str]
    kind: ClassVar[MethodKind]
    needs_teacher: ClassVar[bool] = True
    # It trains by plain distillation, by parameters of its own, where no other method says by what.
    has_default_objective: ClassVar[bool] = False
    # It makes rows that the dataset does not have.
    makes_rows: ClassVar[bool] = False
    # Parameters that mean something else than those of the same name elsewhere: a baseline never takes them over, be it
    # of this method or of another.
    of_its_own: ClassVar[frozenset[str]] = frozenset()
    # Parameters that follow from others of the method where they are left out: a baseline of it never takes them over.
    derived: ClassVar[frozenset[str]] = frozenset()
    # Methods that it cannot be combined with, beyond what their kinds forbid, and why.
    refuses: ClassVar[Mapping[str, str]] = {}

    type: str
