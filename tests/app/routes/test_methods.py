import pytest
from fastapi.testclient import TestClient

from tests.app.routes.helpers import add_demo, job_body

pytestmark = pytest.mark.usefixtures("sqlite_database")


class TestListMethods:
    def test_describes_each_with_schema_defaults_and_source(self, client: TestClient) -> None:
        methods = {method["type"]: method for method in client.get("/methods").json()["data"]}
        assert set(methods) >= {"sage", "kd", "fine_tune", "taid", "opdf"}
        sage = methods["sage"]
        assert sage["defaults"]["rounds"] == 4
        assert sage["parameters"]["properties"]["rounds"]["maximum"] == 100
        assert set(sage["parameters"]["properties"]) == set(sage["defaults"])
        assert sage["needs_teacher"] is True
        assert (methods["fine_tune"]["defaults"], methods["fine_tune"]["needs_teacher"]) == ({}, False)
        assert (methods["opdf"]["kind"], methods["taid"]["kind"]) == ("parameterisation", "objective")
        assert methods["opdf"]["not_with"].keys() == {"opdf"}
        assert "both say by what loss" in methods["taid"]["not_with"]["kd"]
        assert all(method["source"] and method["summary"] for method in methods.values())

    def test_gives_defaults_that_a_job_accepts(self, client: TestClient) -> None:
        add_demo()
        for method in client.get("/methods").json()["data"]:
            body = job_body(method={"type": method["type"], **method["defaults"]})
            response = client.post("/jobs", json=body)
            assert response.status_code == 202
            assert response.json()["method"] == {"type": method["type"], **method["defaults"]}
