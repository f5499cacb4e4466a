"""The shape of a job's metrics."""

from pydantic import Field

from app.schemas.base import Page, QueryModel, ResponseModel, Text


class MetricPoint(ResponseModel):
    step: int = Field(description="Optimiser step.")
    value: float | None = Field(description="Null where it was not a finite number.")


class MetricSeries(ResponseModel):
    series: str = Field(examples=["train/loss"])
    points: list[MetricPoint] = Field(description="By step; one value for each, whatever was replayed.")


class MetricPage(Page[MetricSeries]):
    pass


class MetricsQuery(QueryModel):
    series: list[Text] = Field(
        default_factory=list,
        max_length=50,
        description="Only these series; repeat the parameter for several. All when absent.",
    )
