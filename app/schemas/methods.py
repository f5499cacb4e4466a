"""The methods that a job can name: one model each, whose fields and defaults are the documentation."""

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from app.schemas.base import Page, RequestModel, ResponseModel

Temperature = Annotated[
    float,
    Field(ge=0.1, le=100, description="Softens both models' probabilities before they are compared."),
]
Alpha = Annotated[
    float,
    Field(ge=0, le=1, description="Weight of the teacher term; the hard labels get 1 - alpha."),
]
Rounds = Annotated[int, Field(ge=1, le=100, description="How often new rows are chosen.")]
WarmupEpochs = Annotated[
    float,
    Field(
        ge=0,
        le=1000,
        description="Plain distillation before the first round, in epochs of training rows. It is part of "
        "the budget, so it stays below `training.epochs`.",
    ),
]
Neighbors = Annotated[
    int, Field(ge=2, le=100, description="Nearest rows in the 2-D projection that form a row's region.")
]
AnchorQuantile = Annotated[
    float,
    Field(gt=0, le=1, description="Share of the training rows, those of highest smoothed loss, drawn from."),
]
ScoredRows = Annotated[
    int,
    Field(
        ge=100,
        le=10_000_000,
        description="Training rows whose loss is looked at before a round, drawn anew for each. Any other row is "
        "taken to be like the nearest of them in the projection. All rows where there are fewer.",
    ),
]
SyntheticRatio = Annotated[
    float, Field(ge=0, le=4, description="Synthetic rows for each real row in a round; 0 is plain distillation.")
]


class MethodParameters(RequestModel):
    """The parameters of one method, beside its `type`."""

    title: ClassVar[str]
    summary: ClassVar[str]
    source: ClassVar[str]
    needs_teacher: ClassVar[bool] = True


class FineTune(MethodParameters):
    """Train on the hard labels alone."""

    title = "Fine-tuning alone"
    summary = "Cross-entropy on the labels, no teacher: what the student reaches by itself."
    source = "Common practice; the baseline that a distilled student has to beat."
    needs_teacher = False

    type: Literal["fine_tune"] = "fine_tune"


class KnowledgeDistillation(MethodParameters):
    """Match the teacher's softened probabilities."""

    title = "Knowledge distillation"
    summary = "KL divergence to the teacher's softened probabilities, mixed with the hard labels."
    source = "Hinton, Vinyals, Dean: Distilling the Knowledge in a Neural Network, 2015 (arXiv:1503.02531)."

    type: Literal["kd"] = "kd"
    temperature: Temperature = 2.0
    alpha: Alpha = 0.9


class Sage(MethodParameters):
    """Distil where the student is still weak, on synthetic rows made there."""

    later_fields = frozenset({"scored_rows"})
    title = "SAGE"
    summary = (
        "Rounds of distillation: rows in the high-loss regions of a UMAP projection are interpolated, "
        "inverted to embedding vectors, labelled by the teacher and trained on with the real rows."
    )
    source = (
        "After the published description of SAGE: loss-guided synthesis in an embedding space. Choices that "
        "it leaves open are this project's own."
    )

    type: Literal["sage"] = "sage"
    temperature: Temperature = 2.0
    alpha: Alpha = 0.9
    rounds: Rounds = 4
    warmup_epochs: WarmupEpochs = 1.0
    synthetic_ratio: SyntheticRatio = 0.5
    neighbors: Neighbors = 10
    anchor_quantile: AnchorQuantile = 0.2
    scored_rows: ScoredRows = 2_048
    early_stopping: bool = Field(
        default=True,
        description="Stop when two rounds bring no gain, or the high-loss mass no longer shrinks.",
    )


class RandomAnchors(MethodParameters):
    """SAGE's control: the same synthesis from rows drawn at random."""

    title = "Random anchors"
    summary = "SAGE with anchors drawn at random: shows what choosing the high-loss regions is worth."
    source = "A control of this project's own, under the same budget as SAGE."

    type: Literal["random_anchors"] = "random_anchors"
    temperature: Temperature = 2.0
    alpha: Alpha = 0.9
    rounds: Rounds = 4
    warmup_epochs: WarmupEpochs = 1.0
    synthetic_ratio: SyntheticRatio = 0.5
    neighbors: Neighbors = 10


class Oversample(MethodParameters):
    """SAGE's other control: the same high-loss rows again, none made up."""

    later_fields = frozenset({"scored_rows"})
    title = "Oversampling"
    summary = "Repeats the high-loss real rows instead of synthesising: shows what the synthesis is worth."
    source = "A control of this project's own, under the same budget as SAGE."

    type: Literal["oversample"] = "oversample"
    temperature: Temperature = 2.0
    alpha: Alpha = 0.9
    rounds: Rounds = 4
    warmup_epochs: WarmupEpochs = 1.0
    oversample_ratio: float = Field(default=0.5, ge=0, le=4, description="Repeated rows for each real row in a round.")
    neighbors: Neighbors = 10
    anchor_quantile: AnchorQuantile = 0.2
    scored_rows: ScoredRows = 2_048


Method = Annotated[Sage | KnowledgeDistillation | FineTune | RandomAnchors | Oversample, Field(discriminator="type")]
MethodType = Literal["sage", "kd", "fine_tune", "random_anchors", "oversample"]
METHODS: dict[str, type[MethodParameters]] = {
    "sage": Sage,
    "kd": KnowledgeDistillation,
    "fine_tune": FineTune,
    "random_anchors": RandomAnchors,
    "oversample": Oversample,
}


class MethodRead(ResponseModel):
    type: MethodType
    title: str
    summary: str
    source: str = Field(description="Where the method comes from.")
    needs_teacher: bool = Field(description="Whether the student learns from the teacher's outputs.")
    parameters: dict[str, Any] = Field(description="JSON schema of the parameters.")
    defaults: dict[str, Any] = Field(description="What each parameter is when a job leaves it out.")


class MethodPage(Page[MethodRead]):
    pass
