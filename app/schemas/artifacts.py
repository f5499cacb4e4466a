"""The shape of a job's artifacts."""

from pydantic import Field

from app.schemas.base import Page, ResponseModel


class ArtifactLinks(ResponseModel):
    download: str


class ArtifactRead(ResponseModel):
    name: str = Field(examples=["model.safetensors"])
    size_bytes: int
    sha256: str = Field(description="Also the ETag of the download.")
    content_type: str
    links: ArtifactLinks


class ArtifactPage(Page[ArtifactRead]):
    pass
