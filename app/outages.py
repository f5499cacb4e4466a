"""Which errors say that the database or the object store has troubles of its own."""

import re

import obstore.exceptions
import sqlalchemy.exc

from app.storage.store import ObjectMissing

# undefined_table, undefined_column
_BEHIND_STATES = frozenset({"42P01", "42703"})
_BEHIND_ON_SQLITE = re.compile(r"no such (table|column): |has no column named ")


def is_database_away(error: BaseException) -> bool:
    """Whether the database failed, not what was asked of it, so that the same may work later.

    Of a server that took the connection and then cannot serve it (see app/db/session.py) the connection is marked as
    invalid, whatever class of error the driver gives.
    """
    if isinstance(error, sqlalchemy.exc.TimeoutError):  # of the pool
        return True
    if not isinstance(error, sqlalchemy.exc.DBAPIError) or is_database_behind(error):
        return False
    return error.connection_invalidated or isinstance(
        error, sqlalchemy.exc.OperationalError | sqlalchemy.exc.InterfaceError
    )


def is_connection_lost(error: BaseException) -> bool:
    """Whether the database is away in that it cannot be reached: what it answers, such as that a lock was waited for in
    vain, is no such error."""
    if isinstance(error, sqlalchemy.exc.TimeoutError):
        return True
    if not isinstance(error, sqlalchemy.exc.DBAPIError):
        return False
    # An attempt to connect has no statement.
    return is_database_away(error) and (error.connection_invalidated or error.statement is None)


def is_commit_unanswered(error: BaseException) -> bool:
    """Whether the connection was lost while a transaction was being committed: nobody knows whether it is.

    With any other error of a `write_session` nothing is. A commit has no statement, and an attempt to connect, which
    has none either, no connection that could be lost.
    """
    return isinstance(error, sqlalchemy.exc.DBAPIError) and error.connection_invalidated and error.statement is None


def is_database_behind(error: BaseException) -> bool:
    """Whether the database lacks tables or columns of this release: it waits for `stillhouse migrate`."""
    if not isinstance(error, sqlalchemy.exc.DBAPIError):
        return False
    if getattr(error.orig, "sqlstate", None) in _BEHIND_STATES:
        return True
    return isinstance(error, sqlalchemy.exc.OperationalError) and bool(_BEHIND_ON_SQLITE.search(str(error.orig)))


def is_transient(error: BaseException) -> bool:
    """Whether the same call may work later: the servers or the network failed, not the request."""
    if is_database_away(error) or is_database_behind(error):
        return True
    if isinstance(error, ObjectMissing | FileNotFoundError | NotADirectoryError | IsADirectoryError):
        return False
    return isinstance(error, obstore.exceptions.BaseError | OSError)
