"""The shapes of liveness and readiness."""

from typing import Literal

from pydantic import Field

from app.schemas.base import ResponseModel


class Health(ResponseModel):
    status: Literal["ok"]


class Readiness(ResponseModel):
    status: Literal["ready", "degraded"] = Field(
        description="`degraded`: jobs are accepted, but start late, when the sweep wakes a worker."
    )
    database: str
    object_store: str
    queue: str
