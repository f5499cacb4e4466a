"""The shapes of liveness and readiness."""

from typing import Literal

from pydantic import Field

from app.schemas.base import ResponseModel


class Health(ResponseModel):
    status: Literal["ok"]


class Readiness(ResponseModel):
    status: Literal["ready", "degraded"] = Field(
        description="`degraded`: jobs are accepted, but start some seconds late, when a worker looks into the database."
    )
    database: str
    migrations: str = Field(description="Whether the database has every migration of this release.")
    object_store: str
    queue: str
    disk: str = Field(description="Whether there is room for what is kept in files: in embedded mode all of it.")
