"""Requests that a browser sends for a page of somebody else."""

import httpx
import pytest
from fastapi.testclient import TestClient

from app.main import create_app
from app.settings import get_settings
from tests.app.routes.helpers import check_error, job_body
from tests.fixtures.environment import ChangeSettings

FORM = {"train": ("train.csv", b"text,label\r\na,0\r\n", "text/csv")}


@pytest.mark.usefixtures("sqlite_database", "filesystem_broker")
class TestSite:
    @pytest.mark.parametrize("site", ["cross-site", "same-site"])
    def test_another_pages_form_is_refused(self, client: TestClient, site: str) -> None:
        """Harm: any page that somebody opens fills the disk with datasets."""
        headers = {"Sec-Fetch-Site": site, "Origin": "https://evil.example"}
        response = client.post("/datasets", files=FORM, headers=headers)
        check_error(response, status=403, code="foreign_page", param="Origin", message=["https://evil.example", "POST"])
        assert client.get("/datasets").json()["data"] == []
        response = client.delete("/jobs/job_x", headers=headers)
        check_error(response, status=403, code="foreign_page", param="Origin", message=["DELETE"])

    @pytest.mark.parametrize("headers", [{"Sec-Fetch-Site": "same-origin"}, {"Sec-Fetch-Site": "none"}, {}])
    def test_our_own_pages_and_programs_are_served(self, client: TestClient, headers: dict[str, str]) -> None:
        assert client.post("/datasets", files=FORM, headers=headers).status_code == 202

    @pytest.mark.parametrize(
        ("origin", "host"),
        [
            ("http://evil.example", "stillhouse.internal"),
            ("http://stillhouse.internal.evil.example", "stillhouse.internal"),
            ("http://stillhouse.internal:8001", "stillhouse.internal:8000"),
            ("http://stillhouse.internal", "stillhouse.internal:8000"),
            ("http://stillhouse.internal:8000", "stillhouse.internal"),
            ("https://stillhouse.internal", "stillhouse.internal:80"),
            ("http://[fd00::2]", "[fd00::1]"),
            ("null", "stillhouse.internal"),
            ("null", "null"),
            ("", ""),
            ("http://[", "["),
            ("http://stillhouse.internal:x", "stillhouse.internal:x"),
        ],
    )
    def test_another_page_is_known_where_the_browser_says_only_its_origin(
        self, client: TestClient, origin: str, host: str
    ) -> None:
        """Harm: a browser says more only to https:// and to loopback, so at http://stillhouse.internal any page could
        fill the disk."""
        headers = {"Origin": origin, "Host": host}
        response = client.post("/datasets", files=FORM, headers=headers)
        check_error(
            response, status=403, code="foreign_page", param="Origin", message=[origin, f"The Host is {host!r}"]
        )
        assert client.get("/datasets").json()["data"] == []
        assert client.get("/jobs", headers=headers).status_code == 200

    @pytest.mark.parametrize(
        ("origin", "host"),
        [
            ("http://stillhouse.internal", "stillhouse.internal"),
            ("http://stillhouse.internal", "Stillhouse.Internal:80"),
            ("http://stillhouse.internal:8000", "stillhouse.internal:8000"),
            ("http://[fd00::1]:8000", "[FD00::1]:8000"),
            ("https://stillhouse.internal", "stillhouse.internal"),
            ("https://stillhouse.internal", "stillhouse.internal:443"),
        ],
    )
    def test_our_own_page_is_known_by_its_origin(self, client: TestClient, origin: str, host: str) -> None:
        response = client.post("/datasets", files=FORM, headers={"Origin": origin, "Host": host})
        assert response.status_code == 202

    def test_a_link_from_another_page_is_followed(self, client: TestClient) -> None:
        assert client.get("/docs", headers={"Sec-Fetch-Site": "cross-site"}).status_code == 200


@pytest.mark.usefixtures("sqlite_database")
class TestHost:
    @pytest.mark.parametrize(
        "host", ["evil.example", "127.0.0.1.evil.example:8000", "localhost.evil.example", "[::1", ""]
    )
    def test_a_name_that_somebody_else_gives_away_is_refused_on_loopback(self, server: str, host: str) -> None:
        """Harm: a page whose name now means 127.0.0.1 reads every job and takes the students along."""
        response = httpx.get(f"{server}/jobs", headers={"Host": host})
        check_error(response, status=403, code="foreign_host", param="Host", message=["STILLHOUSE_ALLOWED_HOSTS"])

    @pytest.mark.parametrize(
        "host", ["localhost", "LOCALHOST:8000", "127.0.0.1:1", "127.1.2.3", "[::1]:80", "a.localhost"]
    )
    def test_names_of_loopback_are_served(self, server: str, host: str) -> None:
        assert httpx.get(f"{server}/jobs", headers={"Host": host}).status_code == 200

    def test_a_name_that_the_operator_allows_is_served(self, change_settings: ChangeSettings) -> None:
        change_settings(allowed_hosts="models.example, Other.example")
        app = create_app(get_settings())
        for host, status in (("models.example:443", 200), ("other.example", 200), ("evil.example", 403)):
            with TestClient(app, base_url="http://127.0.0.1:8000") as client:
                assert client.get("/jobs", headers={"Host": host}).status_code == status

    def test_a_cluster_is_called_by_any_name(self, postgres_database: str) -> None:  # noqa: ARG002
        """Harm: behind a proxy in the pod, which connects over loopback, nothing is served."""
        client = TestClient(create_app(get_settings()), base_url="http://127.0.0.1:8000")
        assert client.get("/jobs", headers={"Host": "stillhouse.example"}).status_code == 200
        assert client.post("/jobs", json=job_body(), headers={"Host": "stillhouse.example"}).status_code == 404
