"""The one task: somebody says that there is work."""

from app.queue import WAKE_TASK
from worker.celery_app import celery_app, work_loop


@celery_app.task(name=WAKE_TASK)
def wake() -> int:
    """Ask the database for work and do it until none is left; returns how many pieces were done."""
    return work_loop.run_until_idle()
