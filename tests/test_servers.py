"""The servers of the tests leave a machine as they found it."""

from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests.fixtures import servers
from tests.fixtures.servers import ports_for_weed, s3_server, sockets_of_weed


class TestS3Server:
    def test_leaves_no_socket_behind(self) -> None:
        """Harm: six files for each run of the tests, for ever."""
        with s3_server() as variables:
            port = urlsplit(variables["AWS_ENDPOINT_URL"]).port
            assert port is not None
            assert sockets_of_weed(port)
        assert sockets_of_weed(port) == []


class TestPortsForWeed:
    @pytest.mark.parametrize(("name", "distance"), [("filer", 0), ("volume-grpc", 10_000)])
    def test_passes_over_a_port_whose_socket_somebody_left(
        self, name: str, distance: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Harm: a server that cannot remove another user's socket ends, and with it whichever test drew the port."""
        monkeypatch.setattr(servers, "_WEED_SOCKETS", tmp_path)
        with ports_for_weed(2) as (first, second):
            (tmp_path / f"seaweedfs-{name}-{first + distance}.sock").touch()
            monkeypatch.setattr(servers, "_drawn", lambda _: iter([first, second]))
            with ports_for_weed(1) as ports:
                assert ports == [second]
