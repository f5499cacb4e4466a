"""The sweep as a process."""

from app.logging import configure_logging
from app.settings import get_settings
from app.sweep import SweepThread

if __name__ == "__main__":
    configure_logging(get_settings(), service="scheduler")
    SweepThread(get_settings()).run()
