"""The yardstick: an application with one route that looks one row up by its primary key, as most people write it.

Same table, same rows, same PostgreSQL, same server program as the real API.
"""

import os
from datetime import datetime

from fastapi import FastAPI, HTTPException
from pydantic import BaseModel, ConfigDict
from sqlalchemy import create_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column


class Base(DeclarativeBase):
    pass


class Job(Base):
    __tablename__ = "jobs"

    id: Mapped[str] = mapped_column(primary_key=True)
    status: Mapped[str]
    phase: Mapped[str | None]
    progress: Mapped[float]
    created_at: Mapped[datetime]


class JobRead(BaseModel):
    model_config = ConfigDict(from_attributes=True)

    id: str
    status: str
    phase: str | None
    progress: float
    created_at: datetime


engine = create_engine(os.environ["BARE_DATABASE_URL"])
app = FastAPI()


# The session is opened here and not by a dependency with `yield`, which is as common: such a session is held until
# its request gets a thread once more to close it, and with 500 clients the threads are those that wait for a
# session. That application answers most requests with 500, after half a minute each.
@app.get("/jobs/{job_id}")
def get_job(job_id: str) -> JobRead:
    with Session(engine) as session:
        job = session.get(Job, job_id)
        if job is None:
            raise HTTPException(status_code=404)
        return JobRead.model_validate(job)
