"""A process that claims all it can: `python -m tests.bad_days.claimer NAME LOCK`.

Says "ready", waits until nobody holds the advisory lock any more, then claims until nothing waits. Prints what it got,
one claim a line.
"""

import sys

from sqlalchemy import text

from app.db.session import wait_without_limits, write_session
from app.repositories import leases


def main() -> None:
    name, lock = sys.argv[1], int(sys.argv[2])
    print("ready", flush=True)
    with write_session() as session:
        wait_without_limits(session.connection())
        session.execute(text("SELECT pg_advisory_xact_lock_shared(:lock)"), {"lock": lock})
    while True:
        with write_session() as session:
            claim = leases.claim_next(session, worker_name=name, lease_seconds=60)
        if claim is None:
            return
        print(claim.id, claim.run_token, flush=True)


if __name__ == "__main__":
    main()
