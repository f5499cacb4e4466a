"""An upload from its first byte to its row: what was stored of it is either named by the row, or removed."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from typing import TypeVar

import structlog
from anyio import CancelScope
from anyio.to_thread import run_sync

from app.db.session import write_session
from app.outages import is_commit_unanswered
from app.queue import wake
from app.repositories import cleanups
from app.services.multipart import PartEvent, read_parts
from app.settings import Settings
from app.storage.store import ObjectStore

Form = TypeVar("Form")
Row = TypeVar("Row")

log = structlog.get_logger(__name__)


async def receive(
    settings: Settings,
    store: ObjectStore,
    *,
    root: str,
    content_type: str,
    body: AsyncIterator[bytes],
    example_part: str,
    read_form: Callable[[AsyncIterator[PartEvent]], Awaitable[Form]],
    create: Callable[[Form], Row],
) -> Row:
    """Have `read_form` store under `root` what a form brings and `create` the row that names it, or leave nothing
    behind.

    The database is asked twice and shortly: before the first byte, so that the sweep knows what to remove if
    this process dies meanwhile, and after the last one.
    """
    await run_sync(expect_objects, settings, root)
    try:
        async with aclosing(read_parts(content_type, body, example_part=example_part)) as parts:
            form = await read_form(parts)
    except BaseException:
        # A cancelled request has to clean up as well.
        with CancelScope(shield=True):
            await run_sync(_discard, settings, store, root)
        raise
    row = await run_sync(_create_or_discard, settings, store, root, create, form)
    await run_sync(wake, settings)
    return row


def expect_objects(settings: Settings, root: str) -> None:
    """Have the sweep look for objects under `root` that, should this process die, no row will ever name."""
    with write_session(settings) as session:
        cleanups.schedule(session, root, delay_seconds=cleanups.UPLOAD_SECONDS)


def _create_or_discard(
    settings: Settings, store: ObjectStore, root: str, create: Callable[[Form], Row], form: Form
) -> Row:
    # In one thread, which ends what it began also where the request is cancelled meanwhile.
    try:
        return create(form)
    except Exception as error:
        # The row may be there all the same, and names the files: if it is not, the sweep removes them a day later.
        if not is_commit_unanswered(error):
            _discard(settings, store, root)
        raise


def _discard(settings: Settings, store: ObjectStore, root: str) -> None:
    """Delete what was received for a row that is not there and will not be."""
    try:
        store.delete_prefix(root)
        with write_session(settings) as session:
            cleanups.schedule(session, root, delay_seconds=0)
    except Exception as error:
        # The sweep will do it: what the caller has to hear is the error that ended the upload.
        log.warning("discard_failed", root=root, error=str(error))
