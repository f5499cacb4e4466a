"""What every test can ask for.

`database`, `object_store` and `broker` run a test against both kinds of each, the servers real and started on
first use; `sqlite_database`, `postgres_database`, `folder_object_store`, `s3_object_store`, `filesystem_broker`
and `redis_broker` name one. All point the settings of the test at what they give, by environment variables, so
processes that a test starts find the same.
"""

import os
from collections.abc import Generator

import pytest

pytest_plugins = [
    "tests.fixtures.completeness",
    "tests.fixtures.network",
    "tests.fixtures.environment",
    "tests.fixtures.database",
    "tests.fixtures.storage",
    "tests.fixtures.broker",
    "tests.fixtures.served_api",
]


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--all-methods", action="store_true", help="every method and every pair, not a sample of them")


@pytest.hookimpl(wrapper=True, optionalhook=True)
def pytest_xdist_auto_num_workers() -> Generator[None, int, int]:
    """One process more than there are processors: the tests wait for a third of their time, for servers, leases and
    engines."""
    processors = yield
    return processors if "PYTEST_XDIST_AUTO_NUM_WORKERS" in os.environ else processors + 1
