import os

import pytest

GROUP = "groups"


@pytest.mark.skipif("PYTEST_XDIST_WORKER" not in os.environ, reason="only tests in several processes have groups")
@pytest.mark.xdist_group(GROUP)
def test_of_a_group_are_known_to_belong_together(request: pytest.FixtureRequest) -> None:
    """Harm: tests that share a running system are spread over the processes, and each of these starts one of its own.
    pytest-xdist goes by the name of a test, to which it adds the group."""
    if not request.config.getoption("loadgroup"):
        pytest.skip("without --dist loadgroup there are no groups")
    assert request.node.nodeid.endswith(f"@{GROUP}")
