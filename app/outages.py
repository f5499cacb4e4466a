"""Which errors say that the database or the object store has troubles of its own."""

import obstore.exceptions
import sqlalchemy.exc

from app.storage.store import ObjectMissing


def is_transient(error: Exception) -> bool:
    """Whether the same call may work later: the server or the network failed, not the request."""
    if isinstance(error, sqlalchemy.exc.DBAPIError):
        return error.connection_invalidated or isinstance(
            error, sqlalchemy.exc.OperationalError | sqlalchemy.exc.InterfaceError
        )
    if isinstance(error, sqlalchemy.exc.TimeoutError):
        return True
    if isinstance(error, ObjectMissing | FileNotFoundError | NotADirectoryError | IsADirectoryError):
        return False
    return isinstance(error, obstore.exceptions.BaseError | OSError)
