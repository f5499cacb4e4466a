"""The methods that a job can name."""

from fastapi import APIRouter, Depends

from app.dependencies import refuse_query
from app.schemas.errors import error_responses
from app.schemas.methods.registry import MethodPage
from app.services import methods

router = APIRouter(prefix="/methods", tags=["methods"])


@router.get(
    "",
    summary="List methods",
    dependencies=[Depends(refuse_query)],
    responses=error_responses("GET /methods", 422, asks_database=False),
)
def list_methods() -> MethodPage:
    """Each with its parameters as a JSON schema, and what they are by default."""
    return MethodPage(data=methods.list_methods(), has_more=False, next=None)
