"""The shape of a job's metrics."""

from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError

from app.schemas.base import Page, QueryInt, QueryModel, ResponseModel, Text

# As many digits as are read.
LARGEST_STEP = 10**18 - 1


class MetricPoint(ResponseModel):
    step: int = Field(description="Optimiser step.")
    value: float | None = Field(description="Null where it was not a finite number.")


class MetricSeries(ResponseModel):
    series: str = Field(examples=["student/train_loss"])
    total: int = Field(description="How many points the job has, within the steps asked for.")
    downsampled: bool = Field(description="Whether `points` leaves some of them out.")
    points: list[MetricPoint] = Field(description="By step; one value for each, whatever was replayed.")


class MetricPage(Page[MetricSeries]):
    pass


class MetricsQuery(QueryModel):
    series: list[Text] = Field(
        default_factory=list,
        max_length=50,
        description="Only these series; repeat the parameter for several. All when absent.",
    )
    points: QueryInt = Field(
        default=1000,
        ge=10,
        le=10_000,
        description="The most points of a series. A longer one is downsampled: its steps are cut into ranges of "
        "equal length, and of each come the lowest and the highest point and the first that is null; so do the "
        "first and the last of all. Nothing is averaged. A page has 50,000 points at most, which its series share.",
    )
    from_step: QueryInt | None = Field(default=None, ge=0, le=LARGEST_STEP, description="Only from this step on.")
    to_step: QueryInt | None = Field(default=None, ge=0, le=LARGEST_STEP, description="Only up to this step.")
    after: Text | None = Field(default=None, max_length=128, description="The `next` of the page before.")

    @model_validator(mode="after")
    def _refuse_an_empty_range(self) -> "MetricsQuery":
        if self.from_step is not None and self.to_step is not None and self.from_step > self.to_step:
            raise PydanticCustomError(
                "out_of_range",
                "to_step is {to_step} and from_step is {from_step}, with no step between them; send a to_step that is "
                "at least from_step",
                {"to_step": self.to_step, "from_step": self.from_step, "param": "to_step"},
            )
        return self
