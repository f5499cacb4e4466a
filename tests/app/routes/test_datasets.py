import hashlib
from typing import Any

import pytest
from fastapi.testclient import TestClient

from app.storage.store import ObjectStore
from tests.app.routes.helpers import check_error, commit_answers_lost
from tests.fixtures.factories import add_dataset, add_job, claimed, read_dataset, ready_dataset

ROWS = b"text,label\nhello,greeting\nbye,farewell\n"


def stored(store: ObjectStore) -> dict[str, bytes]:
    return {item.key: store.get_bytes(item.key) for item in store.list("datasets")}


def raw_form(*dispositions: str, content: bytes = ROWS) -> dict[str, Any]:
    """A form as no polite client would write it: a part with `content` for each Content-Disposition."""
    parts = [f"--b\r\nContent-Disposition: form-data; {text}\r\n\r\n".encode() for text in dispositions]
    body = b"".join(part + content + b"\r\n" for part in parts) + b"--b--\r\n"
    return {"content": body, "headers": {"Content-Type": "multipart/form-data; boundary=b"}}


@pytest.mark.usefixtures("database", "object_store")
class TestCreateDataset:
    def test_stores_the_files_as_they_are_and_leaves_the_rest_to_a_worker(
        self, client: TestClient, object_store: ObjectStore
    ) -> None:
        files = {
            "train": ("rows.csv", ROWS),
            "test": ("rows.JSONL.gz", b"\x1f\x8b.."),
            "unlabelled": ("texts.csv", b"text\nhi\n"),
        }
        response = client.post("/datasets", files=files, data={"name": "greetings", "label_column": "label"})
        assert response.status_code == 202
        dataset = response.json()
        assert response.headers["Location"] == f"/datasets/{dataset['id']}"
        assert (dataset["name"], dataset["status"], dataset["terminal"]) == ("greetings", "pending", False)
        assert (dataset["label_column"], dataset["text_column"]) == ("label", None)
        assert dataset["size_bytes"] == len(ROWS) + 4 + 8
        root = f"datasets/{dataset['id']}/uploads"
        assert stored(object_store) == {
            f"{root}/train.csv": ROWS,
            f"{root}/test.jsonl.gz": b"\x1f\x8b..",
            f"{root}/unlabelled.csv": b"text\nhi\n",
        }
        upload = read_dataset(dataset["id"]).uploads[0]
        assert upload == {
            "split": "train",
            "filename": "rows.csv",
            "object_key": f"{root}/train.csv",
            "size_bytes": len(ROWS),
            "sha256": hashlib.sha256(ROWS).hexdigest(),
        }

    def test_streams_a_file_larger_than_the_parts_it_is_stored_in(
        self, client: TestClient, object_store: ObjectStore
    ) -> None:
        content = ROWS * 500_000  # 20 MB
        dataset = client.post("/datasets", files={"train": ("rows.csv", content)}).json()
        assert dataset["size_bytes"] == len(content)
        assert stored(object_store) == {f"datasets/{dataset['id']}/uploads/train.csv": content}


@pytest.mark.usefixtures("postgres_database")
def test_keeps_the_files_of_a_dataset_that_may_have_been_made(
    client: TestClient, folder_object_store: ObjectStore
) -> None:
    """Harm: the answer to the commit is lost, the files are deleted, and the dataset that is there is an empty one."""
    with commit_answers_lost(but_first=1):  # that of the note where leftovers would be
        response = client.post("/datasets", files={"train": ("rows.csv", ROWS)})
    check_error(response, status=503, code="database_unavailable", param=None, message=["may or may not", "GET"])
    (dataset,) = client.get("/datasets").json()["data"]
    assert stored(folder_object_store) == {f"datasets/{dataset['id']}/uploads/train.csv": ROWS}


@pytest.mark.usefixtures("sqlite_database", "folder_object_store")
class TestFormOfDataset:
    def test_may_name_its_parts_in_any_order(self, client: TestClient) -> None:
        def part(name: str, content: str, more: str = "") -> str:
            return f'--b\r\nContent-Disposition: form-data; name="{name}"{more}\r\n\r\n{content}\r\n'

        body = (
            part("label_column", "kind")
            + part("train", "a,b\n", '; filename="t.csv"')
            + part("text_column", "Wört")
            + "--b--\r\n"
        )
        headers = {"Content-Type": "multipart/form-data; boundary=b"}
        dataset = client.post("/datasets", content=body.encode(), headers=headers).json()
        assert (dataset["text_column"], dataset["label_column"], dataset["name"]) == ("Wört", "kind", "t")

    def test_may_leave_inputs_empty_as_browsers_and_the_docs_page_do(self, client: TestClient) -> None:
        files = [("train", ("rows.csv", ROWS)), ("test", ("", b""))]
        data = {"validation": "", "name": "", "text_column": ""}
        dataset = client.post("/datasets", files=files, data=data).json()
        assert (dataset["name"], dataset["text_column"]) == ("rows", None)

    def test_takes_every_known_format(self, client: TestClient) -> None:
        for suffix in (
            ".csv",
            ".tsv",
            ".jsonl",
            ".ndjson",
            ".csv.gz",
            ".tsv.gz",
            ".jsonl.gz",
            ".ndjson.gz",
            ".parquet",
        ):
            response = client.post("/datasets", files={"train": (f"Rows of 2026{suffix}", ROWS)})
            assert response.status_code == 202, suffix
            assert response.json()["name"] == "Rows of 2026"


REFUSED: list[tuple[dict[str, Any], int, str, str | None, list[str]]] = [
    ({"files": {"train": ("a.csv", b"")}}, 422, "dataset_empty", "train", ["'a.csv'", "0 bytes"]),
    ({"files": {"train": ("a.xlsx", ROWS)}}, 422, "unsupported_file_type", "train", ["'a.xlsx'", ".parquet"]),
    ({"files": {"train": ("a.parquet.gz", ROWS)}}, 422, "unsupported_file_type", "train", ["'a.parquet.gz'"]),
    ({"files": {"train": (".csv", ROWS)}}, 422, "unsupported_file_type", "train", ["'.csv'"]),
    ({"files": {"train": ("../a.csv", ROWS)}}, 422, "bad_file_name", "train", ["'../a.csv'", "without a folder"]),
    (raw_form('name="train"; filename="a\x07.csv"'), 422, "bad_file_name", "train", ["control characters"]),
    ({"files": {"train": (f"{'a' * 250}.csv", ROWS)}}, 422, "bad_file_name", "train", ["200 characters"]),
    (raw_form('name="train"; filename=""'), 422, "not_a_file", "train", ["without a name"]),
    ({"files": {"validation": ("a.csv", ROWS)}}, 422, "missing_field", "train", ["'train'", "curl -F"]),
    (
        {"files": {"dev": ("a.csv", ROWS)}},
        422,
        "unknown_field",
        "dev",
        ["'dev'", "train, validation, test, unlabelled"],
    ),
    (
        {"files": {"train": ("a.csv", ROWS)}, "data": {"column": "x"}},
        422,
        "unknown_field",
        "column",
        ["'column'", "text_column"],
    ),
    (
        {"files": [("train", ("a.csv", ROWS)), ("train", ("b.csv", ROWS))]},
        422,
        "duplicate_part",
        "train",
        ["'train' twice"],
    ),
    ({"files": {"test": ("a.csv", ROWS)}, "data": {"train": "text,label"}}, 422, "not_a_file", "train", ["as text"]),
    (
        {"files": {"train": ("a.csv", ROWS), "name": ("n.txt", b"x")}},
        422,
        "not_a_text",
        "name",
        ["'n.txt'", "as text"],
    ),
    (
        {"files": {"train": ("a.csv", ROWS)}, "data": {"name": "x" * 201}},
        422,
        "out_of_range",
        "name",
        ["201 characters"],
    ),
    ({"files": {"train": ("a.csv", ROWS)}, "data": {"name": "x\x00"}}, 422, "wrong_form", "name", ["zero byte"]),
    (
        {"files": {"train": ("a.csv", ROWS)}, "data": {"name": b"\xff"}},
        422,
        "body_not_utf8",
        "name",
        ["0xff", "UTF-8"],
    ),
    (
        {"files": {"train": ("a.csv", ROWS)}, "data": {"text_column": "x", "label_column": "x"}},
        422,
        "duplicate_column",
        "label_column",
        ["'x'", "text_column"],
    ),
    ({"json": {}}, 415, "unsupported_media_type", "Content-Type", ["application/json", "multipart/form-data"]),
    ({}, 415, "unsupported_media_type", "Content-Type", ["multipart/form-data"]),
]


@pytest.mark.usefixtures("sqlite_database", "object_store")
class TestRefusedDataset:
    @pytest.mark.parametrize(
        ("request_parts", "status", "code", "param", "message"),
        REFUSED,
        ids=[f"{case[2]}-{case[3]}" for case in REFUSED],
    )
    def test_says_why_and_leaves_nothing(
        self,
        client: TestClient,
        object_store: ObjectStore,
        request_parts: dict[str, Any],
        status: int,
        code: str,
        param: str | None,
        message: list[str],
    ) -> None:
        response = client.post("/datasets", **request_parts)
        check_error(response, status=status, code=code, param=param, message=message)
        assert stored(object_store) == {}
        assert client.get("/datasets").json()["data"] == []

    @pytest.mark.parametrize(
        ("content", "headers"),
        [
            (b'--b\r\nContent-Disposition: form-data; name="train"; filename="a.csv"\r\n\r\nrow', "boundary=b"),
            (b"no form at all", "boundary=b"),
            (b"", "boundary=b"),
            (b"--b\r\nContent-Disposition: form-data\r\n\r\nx\r\n--b--\r\n", "boundary=b"),
            (b"--b\r\n\r\nx\r\n--b--\r\n", "boundary=b"),
            (b"--b--\r\n", ""),
            (b"--b--\r\n", f"boundary={'b' * 300}"),
        ],
        ids=["torn", "no form", "nothing", "no name", "no header", "no boundary", "long boundary"],
    )
    def test_refuses_a_broken_form(
        self, client: TestClient, object_store: ObjectStore, content: bytes, headers: str
    ) -> None:
        content_type = f"multipart/form-data; {headers}"
        response = client.post("/datasets", content=content, headers={"Content-Type": content_type})
        assert (response.status_code, response.json()["error"]["code"]) == (400, "broken_multipart")
        assert stored(object_store) == {}
        assert client.get("/datasets").json()["data"] == []


class TestListDatasets:
    @pytest.mark.usefixtures("database")
    def test_gives_newest_first_in_pages(self, client: TestClient) -> None:
        made = [add_dataset() for _ in range(3)]
        page = client.get("/datasets?limit=2").json()
        rest = client.get("/datasets", params={"limit": 2, "after": page["next"]}).json()
        assert [item["id"] for item in page["data"] + rest["data"]] == made[::-1]
        assert (page["has_more"], rest["has_more"]) == (True, False)

    @pytest.mark.usefixtures("sqlite_database")
    def test_filters_by_status(self, client: TestClient) -> None:
        ready = add_dataset()
        ready_dataset(claimed())
        add_dataset()
        assert [item["id"] for item in client.get("/datasets?status=ready").json()["data"]] == [ready]

    @pytest.mark.usefixtures("sqlite_database")
    @pytest.mark.parametrize(
        ("query", "code", "param"),
        [
            ("after=x", "bad_cursor", "after"),
            ("limit=1e2", "wrong_form", "limit"),
            ("status=x", "unknown_value", "status"),
        ],
    )
    def test_refuses(self, client: TestClient, query: str, code: str, param: str) -> None:
        check_error(client.get(f"/datasets?{query}"), status=422, code=code, param=param, message=[])


@pytest.mark.usefixtures("sqlite_database")
class TestGetDataset:
    def test_shows_what_the_worker_found(self, client: TestClient) -> None:
        dataset_id = add_dataset()
        ready_dataset(claimed(), unlabelled_rows=40, warnings=["3 rows of test also stand in train"])
        dataset = client.get(f"/datasets/{dataset_id}").json()
        assert (dataset["status"], dataset["terminal"], dataset["error"]) == ("ready", True, None)
        assert dataset["rows"] == {"train": 8, "validation": 2, "test": None, "unlabelled": 40}
        assert dataset["labels"] == ["no", "yes"]
        assert dataset["warnings"] == ["3 rows of test also stand in train"]

    @pytest.mark.parametrize("dataset_id", ["dts_unknown", "job_1", "%00", "7%0D"])
    def test_names_an_id_that_is_not_there(self, client: TestClient, dataset_id: str) -> None:
        response = client.get(f"/datasets/{dataset_id}")
        check_error(response, status=404, code="dataset_not_found", param="dataset_id", message=["GET /datasets"])


@pytest.mark.usefixtures("database")
class TestDeleteDataset:
    def test_removes_an_unused_one(self, client: TestClient) -> None:
        dataset_id = add_dataset()
        assert client.delete(f"/datasets/{dataset_id}").status_code == 204
        assert client.get(f"/datasets/{dataset_id}").status_code == 404

    def test_refuses_while_a_job_that_is_not_over_uses_it(self, client: TestClient) -> None:
        dataset_id = add_dataset()
        job_id = add_job(dataset_id=dataset_id)
        response = client.delete(f"/datasets/{dataset_id}")
        check_error(response, status=409, code="dataset_in_use", param="dataset_id", message=[dataset_id, job_id])
        assert "more" not in response.json()["error"]["message"]
        client.post(f"/jobs/{job_id}/cancel")
        assert client.delete(f"/datasets/{dataset_id}").status_code == 204

    def test_says_that_there_are_more_jobs_than_it_names(self, client: TestClient) -> None:
        """Harm: whoever cancels the five that were named is refused again."""
        dataset_id = add_dataset()
        users = [add_job(dataset_id=dataset_id) for _ in range(6)]
        message = client.delete(f"/datasets/{dataset_id}").json()["error"]["message"]
        assert f"used by {', '.join(users[:5])} and more, not finished" in message

    def test_names_an_id_that_is_not_there(self, client: TestClient) -> None:
        response = client.delete("/datasets/dts_unknown")
        check_error(response, status=404, code="dataset_not_found", param="dataset_id", message=["'dts_unknown'"])
