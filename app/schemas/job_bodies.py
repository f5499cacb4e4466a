"""What is posted of a job: POST /jobs and POST /jobs/{job_id}/retry."""

import re
from types import MappingProxyType
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, StringConstraints, model_validator
from pydantic_core import PydanticCustomError

from app.domain import learning_rates, older_jobs
from app.schemas.base import RequestModel, ShortText, Text
from app.schemas.job_methods import (
    completed_combine,
    refuse_baselines,
    refuse_long_warmup,
    refuse_what_cannot_meet,
    taken_over,
    written_out,
)
from app.schemas.methods.registry import METHODS, Method, MethodType
from app.schemas.methods.sage import Sage

METADATA_KEY_PATTERN = r"^[A-Za-z0-9_.\-]{1,40}$"
MetadataKey = Annotated[str, StringConstraints(pattern=METADATA_KEY_PATTERN)]
MetadataValue = Annotated[Text, Field(max_length=200)]
# numpy and torch take seeds of 32 bits.
Seed = Annotated[int, Field(ge=0, le=2**32 - 1, description="Same seed, same machine: the same student.")]


class StudentConfig(RequestModel):
    """What the student is made of."""

    later_fields = frozenset(older_jobs.STUDENT)

    layers: int = Field(
        ge=1, le=96, description="Transformer layers; at most as many as the teacher has.", examples=[3]
    )
    hidden_size: Literal["same"] = Field(default="same", description="`same`: the teacher's width.")
    init: Literal["teacher_layers"] = Field(
        default="teacher_layers",
        description="`teacher_layers`: begin with layers of the teacher, evenly spaced.",
    )
    word_vectors: Literal["trained", "frozen"] = Field(
        default="trained",
        description="`trained`: the student gets vectors of its own for the words of the training rows. `frozen`: it "
        "keeps the teacher's.",
    )


class TrainingConfig(RequestModel):
    """How the student is trained: the same budget for every method that hears the teacher."""

    earlier_defaults = MappingProxyType({"learning_rate": learning_rates.STUDENT})

    epochs: float = Field(
        default=4.0,
        gt=0,
        le=1000,
        description="Budget: epochs x training rows, labelled and unlabelled, is the number of rows presented, real "
        "and synthetic. `fine_tune` has no use for unlabelled ones: its epochs are of the labelled rows.",
    )
    batch_size: int = Field(default=32, ge=1, le=4096, description="Rows in a step.")
    learning_rate: float | None = Field(
        default=None,
        gt=0,
        le=1,
        description="Peak learning rate of AdamW. Null: chosen by the teacher's width, 2e-4 up to 384 dimensions and "
        "2e-4 x (384 / width)^2 above, so 5e-5 at 768; the job shows the number.",
    )
    warmup_ratio: float = Field(
        default=0.1, ge=0, le=1, description="Share of the steps over which the learning rate rises."
    )
    weight_decay: float = Field(default=0.01, ge=0, le=1)
    max_length: int = Field(
        default=128, ge=4, le=8192, description="Tokens kept of a row; at most the teacher's positions."
    )
    precision: Literal["auto", "fp32", "bf16"] = Field(
        default="auto",
        description="`auto`: bf16 where the processor, or the GPU, multiplies faster in it than in fp32.",
    )
    seed: Seed = 7
    deterministic: bool = Field(default=False, description="On CUDA: the slower kernels that make a resume exact.")


class TeacherTuning(RequestModel):
    """Fine-tune the teacher on the dataset first; the tuned teacher is stored and reused."""

    earlier_defaults = MappingProxyType({"learning_rate": learning_rates.TUNING})

    epochs: float = Field(default=3.0, gt=0, le=1000, description="Epochs over the labelled training rows.")
    batch_size: int = Field(default=32, ge=1, le=4096, description="Rows in a step.")
    learning_rate: float | None = Field(
        default=None,
        gt=0,
        le=1,
        description="Peak learning rate of AdamW. Null: chosen by the teacher's width, 1e-4 up to 384 dimensions and "
        "1e-4 x (384 / width)^2 above, so 2.5e-5 at 768; the job shows the number.",
    )
    warmup_ratio: float = Field(
        default=0.1, ge=0, le=1, description="Share of the steps over which the learning rate rises."
    )
    weight_decay: float = Field(default=0.01, ge=0, le=1)
    seed: Seed = 7


def _check_metadata(metadata: dict[str, str]) -> dict[str, str]:
    if len(metadata) > 16:
        raise PydanticCustomError("too_many_pairs", "has {count} pairs; at most 16 are kept", {"count": len(metadata)})
    return metadata


Metadata = Annotated[
    dict[MetadataKey, MetadataValue],
    # Said by hand: pydantic documents a pattern on the keys, and no bound on the number, otherwise.
    Field(
        description="Your own labels, at most 16; keys of letters, digits, `_`, `.`, `-`. "
        "`GET /jobs?metadata=team:search` finds them again.",
        json_schema_extra={"maxProperties": 16, "additionalProperties": False},
        examples=[{"team": "search"}],
    ),
    AfterValidator(_check_metadata),
]

JOB_EXAMPLE: dict[str, Any] = {
    "teacher": "tch_demo",
    "dataset": "dts_demo",
    "student": {"layers": 3, "hidden_size": "same", "init": "teacher_layers", "word_vectors": "trained"},
    "method": {"type": "sage", "rounds": 4, "synthetic_ratio": 0.5, "neighbors": 10},
    "training": {"epochs": 4, "batch_size": 32, "max_length": 48, "seed": 7},
    "teacher_tuning": {"epochs": 3, "batch_size": 32},
    "baselines": ["fine_tune"],
    "metadata": {"team": "search"},
}
KD_EXAMPLE: dict[str, Any] = {
    "teacher": "tch_demo",
    "dataset": "dts_demo",
    "student": {"layers": 2},
    "method": {"type": "kd"},
    "training": {"epochs": 1, "max_length": 48},
    "teacher_tuning": {"epochs": 1},
}


class JobCreate(RequestModel):
    """A distillation to run."""

    later_fields = frozenset({"combine", "priority", "time_limit_seconds"})

    teacher: ShortText = Field(description="Id of a ready teacher.", examples=["tch_demo"])
    dataset: ShortText = Field(description="Id of a ready dataset.", examples=["dts_demo"])
    student: StudentConfig
    method: Method = Field(
        default_factory=Sage, description="How to distil; `GET /methods` describes each with its parameters."
    )
    combine: list[Method] = Field(
        default=[],
        max_length=8,
        description="Methods that work together with `method`: at most one of each kind, auxiliary ones aside. "
        "`GET /methods` says what cannot be combined. Where none of them says by what loss the student learns, it is "
        "plain distillation; where there is nothing that a guide could lead, it is oversampling.",
        examples=[[{"type": "taid"}]],
    )
    training: TrainingConfig = Field(default_factory=TrainingConfig)
    teacher_tuning: TeacherTuning | None = Field(
        default=None,
        description="Needed when the teacher is only a pretrained encoder, or has other labels.",
    )
    baselines: list[MethodType] = Field(
        default_factory=list,
        max_length=4,
        description="Methods to train as well, for as many epochs, for comparison, each by itself on all rows "
        "(`fine_tune` on the labelled ones). "
        "One that the job names has the parameters that it has there; another one takes over what the body says of the "
        "main method under the same name, `synthetic_ratio` and `oversample_ratio` from each other, and has its own "
        "defaults for the rest. What means something else under that name is not taken over: `temperature` of `pld` "
        "and `sinkd`, `weight` of `bd_kd`, `sinkd` and `nd`, `momentum` of `taid` and `llkd`. Nor does `pruned` take "
        "over `alpha`, which follows from its `fraction`.",
        examples=[["fine_tune"]],
    )
    priority: int = Field(
        default=0,
        ge=-100,
        le=100,
        description="Higher first; among equals the job that was posted first. A running job is never interrupted.",
    )
    time_limit_seconds: float | None = Field(
        default=None,
        gt=0,
        le=366 * 86400,
        description="For how long engines may work on the job, all attempts together; fetching, storing, waiting and "
        "pauses are not counted. After it the job fails as `time_limit_exceeded`. It keeps its checkpoint: a retry "
        "goes on from there.",
        examples=[7200],
    )
    metadata: Metadata = Field(default_factory=dict)

    @model_validator(mode="after")
    def _check_across_fields(self) -> "JobCreate":
        refuse_what_cannot_meet([self.method, *self.combine])
        refuse_baselines(self.baselines, self.method.type, is_combined=bool(self.combine))
        # A baseline has its warm-up from one of these, or a default that fits.
        refuse_long_warmup(self.method, "method", self.training.epochs)
        for index, method in enumerate(self.combine):
            refuse_long_warmup(method, f"combine[{index}]", self.training.epochs)
        return self

    def resolved_baselines(self) -> list[Method]:
        """Each baseline with all its parameters, as the field's description says."""
        named = {method.type: method for method in (self.method, *self.completed_combine())}
        return [named.get(baseline) or taken_over(self.method, METHODS[baseline]) for baseline in self.baselines]

    def completed_combine(self) -> list[Method]:
        """The methods beside the main one, with what they lack to be a whole training."""
        return completed_combine(self.method, self.combine)

    def spec(self, teacher_width: int | None = None) -> dict[str, Any]:
        """The job as it is stored: every default written out, so that none is looked up later; learning rates that are
        left out are those for a teacher of this width, or of 384 where it is not known."""
        spec = self.model_dump(exclude={"metadata", "priority", "time_limit_seconds"})
        epochs = self.training.epochs
        spec["method"] = written_out(self.method, epochs)
        spec["combine"] = [written_out(method, epochs) for method in self.completed_combine()]
        spec["baselines"] = [written_out(baseline, epochs) for baseline in self.resolved_baselines()]
        for part, rate in (("training", learning_rates.STUDENT), ("teacher_tuning", learning_rates.TUNING)):
            if spec[part] is not None and spec[part]["learning_rate"] is None:
                spec[part]["learning_rate"] = learning_rates.by_width(rate, teacher_width)
        return spec


class JobRetry(RequestModel):
    """How to try a job again."""

    from_start: bool = Field(
        default=False, description="Forget the checkpoints and begin anew, instead of going on from the last one."
    )


def is_metadata_key(text: str) -> bool:
    """Whether a label may have this key."""
    return re.fullmatch(METADATA_KEY_PATTERN.strip("^$"), text) is not None
