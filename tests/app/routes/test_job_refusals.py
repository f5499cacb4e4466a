"""Every job that the API itself can see is wrong, and what it says."""

import json
from typing import Any

import pytest
from fastapi.testclient import TestClient

from app.db.session import read_session, write_session
from app.repositories import imports, jobs
from tests.app.routes.helpers import add_demo, check_error, job_body
from tests.fixtures.factories import add_dataset, add_teacher, claimed

NAN = float("nan")

BAD_BODIES: list[tuple[dict[str, Any], str, str | None, list[str]]] = [
    ({"bogus": 1}, "unknown_field", "bogus", ["bogus", "Known are: teacher, dataset"]),
    ({"student": {"layers": 3, "widht": 1}}, "unknown_field", "student.widht", ["student.widht", "hidden_size"]),
    ({"method": {"type": "sage", "ronds": 3}}, "unknown_field", "method.ronds", ["Did you mean 'rounds'?"]),
    ({"method": {"type": "fine_tune", "alpha": 1}}, "unknown_field", "method.alpha", ["Known are: type"]),
    ({"\ud800": 1}, "unknown_field", "\\ud800", ["Known are"]),
    ({"method": {"type": "sgae"}}, "unknown_method", "method.type", ['"sgae"', "'sage'", "'kd'", "'fine_tune'"]),
    ({"method": {"rounds": 3}}, "missing_field", "method.type", ["method.type"]),
    ({"method": "sage"}, "wrong_type", "method", ['"sage"', "an object"]),
    ({"student": {}}, "missing_field", "student.layers", ["student.layers is missing"]),
    ({"student": {"layers": 0}}, "out_of_range", "student.layers", ["is 0", "at least 1"]),
    ({"student": {"layers": "3"}}, "wrong_type", "student.layers", ['"3" (a string)', "whole number"]),
    ({"student": {"layers": True}}, "wrong_type", "student.layers", ["true", "whole number"]),
    ({"student": {"layers": 2.5}}, "wrong_type", "student.layers", ["2.5", "whole number"]),
    ({"student": {"layers": 3, "hidden_size": 64}}, "unknown_value", "student.hidden_size", ["64", "'same'"]),
    ({"method": {"type": "sage", "rounds": 0}}, "out_of_range", "method.rounds", ["is 0", "at least 1"]),
    ({"method": {"type": "sage", "rounds": 101}}, "out_of_range", "method.rounds", ["is 101", "at most 100"]),
    ({"method": {"type": "kd", "temperature": 0}}, "out_of_range", "method.temperature", ["is 0", "0.1"]),
    ({"method": {"type": "kd", "alpha": 1.5}}, "out_of_range", "method.alpha", ["is 1.5", "at most 1"]),
    ({"method": {"type": "sage", "anchor_quantile": 0}}, "out_of_range", "method.anchor_quantile", ["more than 0"]),
    ({"training": {"epochs": 0}}, "out_of_range", "training.epochs", ["is 0", "more than 0"]),
    ({"training": {"epochs": 1001}}, "out_of_range", "training.epochs", ["is 1001", "at most 1000"]),
    ({"training": {"batch_size": 0}}, "out_of_range", "training.batch_size", ["is 0"]),
    ({"training": {"learning_rate": NAN}}, "out_of_range", "training.learning_rate", ["NaN", "finite"]),
    ({"training": {"learning_rate": -1}}, "out_of_range", "training.learning_rate", ["is -1"]),
    ({"training": {"learning_rate": "1"}}, "wrong_type", "training.learning_rate", ['"1"', "a number"]),
    ({"teacher_tuning": {"learning_rate": 0}}, "out_of_range", "teacher_tuning.learning_rate", ["is 0", "more than 0"]),
    ({"training": {"seed": -1}}, "out_of_range", "training.seed", ["is -1"]),
    ({"training": {"seed": 2**32}}, "out_of_range", "training.seed", ["4294967296", "4294967295"]),
    ({"training": {"precision": "fp16"}}, "unknown_value", "training.precision", ['"fp16"', "'bf16'"]),
    ({"training": None}, "wrong_type", "training", ["null"]),
    ({"teacher_tuning": {"epochs": 0}}, "out_of_range", "teacher_tuning.epochs", ["is 0"]),
    (
        {"method": {"type": "sage", "warmup_epochs": 9}},
        "warmup_too_long",
        "method.warmup_epochs",
        ["9.0", "4.0", "lower warmup_epochs"],
    ),
    (
        {"method": {"type": "rad"}, "combine": [{"type": "oversample", "warmup_epochs": 4}]},
        "warmup_too_long",
        "combine[0].warmup_epochs",
        ["'oversample'", "4.0", "raise training.epochs"],
    ),
    ({"method": {"type": "pruned", "fraction": 10**400}}, "wrong_type", "method.fraction", ["401 characters"]),
    ({"combine": [{"type": "taid", "alpha": 2}]}, "out_of_range", "combine[0].alpha", ["is 2", "at most 1"]),
    ({"combine": [{"type": "taid", "alhpa": 1}]}, "unknown_field", "combine[0].alhpa", ["Did you mean 'alpha'"]),
    ({"combine": [{"type": "opdf"}, {"type": "tiad"}]}, "unknown_method", "combine[1].type", ['"tiad"', "'taid'"]),
    ({"combine": [{"alpha": 1}]}, "missing_field", "combine[0].type", ["combine[0].type"]),
    ({"combine": ["taid"]}, "wrong_type", "combine[0]", ['"taid"', "an object"]),
    ({"baselines": ["sage"]}, "baseline_is_method", "baselines[0]", ["'sage'", "leave it out"]),
    ({"baselines": ["kd", "kd"]}, "duplicate_baseline", "baselines[1]", ["'kd'", "once"]),
    ({"baselines": ["kdd"]}, "unknown_value", "baselines[0]", ['"kdd"', "'kd'"]),
    ({"baselines": "kd"}, "wrong_type", "baselines", ['"kd"', "a list"]),
    ({"metadata": {"a b": "x"}}, "wrong_form", "metadata.a b", ['"a b"']),
    ({"metadata": {"a": 1}}, "wrong_type", "metadata.a", ["1", "a string"]),
    ({"metadata": {"a": "\x00"}}, "wrong_form", "metadata.a", ["zero byte"]),
    ({"metadata": {"a": "\ud800"}}, "wrong_form", "metadata.a", ["surrogate"]),
    ({"metadata": {"a": "x" * 201}}, "out_of_range", "metadata.a", ["at most 200"]),
    ({"metadata": {str(i): "" for i in range(17)}}, "too_many_pairs", "metadata", ["17", "16"]),
    ({"teacher": 5}, "wrong_type", "teacher", ["5", "a string"]),
    ({"teacher": ""}, "out_of_range", "teacher", ["at least 1"]),
    ({"dataset": "x\x00"}, "wrong_form", "dataset", ["zero byte"]),
]


@pytest.mark.usefixtures("sqlite_database")
class TestBadBody:
    @pytest.mark.parametrize(
        ("changes", "code", "param", "message"), BAD_BODIES, ids=[json.dumps(case[0])[:60] for case in BAD_BODIES]
    )
    def test_is_refused_by_name(
        self, client: TestClient, changes: dict[str, Any], code: str, param: str | None, message: list[str]
    ) -> None:
        # By hand: a JSON library of good manners would not send NaN.
        body = json.dumps(job_body(**changes)).encode()
        response = client.post("/jobs", content=body, headers={"Content-Type": "application/json"})
        check_error(response, status=422, code=code, param=param, message=message)

    def test_names_the_other_places_too(self, client: TestClient) -> None:
        response = client.post("/jobs", json=job_body(student={"layers": 0}, training={"batch_size": 0}))
        check_error(
            response,
            status=422,
            code="out_of_range",
            param="student.layers",
            message=["1 more: training.batch_size"],
        )

    @pytest.mark.parametrize(
        ("content", "media_type", "status", "code", "message"),
        [
            (b'{"teacher": ', "application/json", 400, "invalid_json", ["Expecting value", "character 12"]),
            (b'{"teacher": "\xff"}', "application/json", 400, "body_not_utf8", ["0xff", "position 13"]),
            (b"[" * 100_000, "application/json", 400, "invalid_json", ["nested"]),
            (b"9" * 5000, "application/json", 400, "invalid_json", ["digits"]),
            (b"", "application/json", 422, "missing_body", ["no body"]),
            (b"[]", "application/json", 422, "wrong_type", ["[]", "an object"]),
        ],
        ids=["torn", "not UTF-8", "too deep", "number too long", "none", "a list"],
    )
    def test_that_is_no_object_is_refused(
        self, client: TestClient, content: bytes, media_type: str, status: int, code: str, message: list[str]
    ) -> None:
        response = client.post("/jobs", content=content, headers={"Content-Type": media_type})
        check_error(response, status=status, code=code, param=None, message=message)

    def test_of_another_media_type_is_refused(self, client: TestClient) -> None:
        response = client.post("/jobs", content=b"teacher=x", headers={"Content-Type": "text/plain"})
        check_error(
            response,
            status=415,
            code="unsupported_media_type",
            param="Content-Type",
            message=["text/plain", "application/json"],
        )

    def test_that_is_too_large_is_refused(self, client: TestClient) -> None:
        response = client.post("/jobs", json=job_body(metadata={"a": "x" * 2_000_000}))
        check_error(response, status=413, code="body_too_large", param=None, message=["1048576 bytes"])


@pytest.mark.usefixtures("database")
class TestMisfit:
    """The body is fine; what it names is not there, not ready, or does not fit."""

    def test_unknown_teacher(self, client: TestClient) -> None:
        add_demo()
        response = client.post("/jobs", json=job_body(teacher="tch_nowhere"))
        check_error(
            response, status=404, code="teacher_not_found", param="teacher", message=["'tch_nowhere'", "POST /teachers"]
        )

    def test_unknown_dataset(self, client: TestClient) -> None:
        add_demo()
        response = client.post("/jobs", json=job_body(dataset="dts_nowhere"))
        check_error(
            response, status=404, code="dataset_not_found", param="dataset", message=["'dts_nowhere'", "POST /datasets"]
        )

    def test_pending_dataset(self, client: TestClient) -> None:
        add_demo()
        dataset_id = add_dataset()
        response = client.post("/jobs", json=job_body(dataset=dataset_id))
        check_error(
            response,
            status=409,
            code="dataset_not_ready",
            param="dataset",
            message=[dataset_id, "still pending: no worker has taken it yet", "all are busy or none runs", "Poll"],
        )

    def test_dataset_that_is_being_checked(self, client: TestClient) -> None:
        add_demo()
        dataset_id = add_dataset()
        claimed()
        response = client.post("/jobs", json=job_body(dataset=dataset_id))
        message = ["still pending: it is being checked. Poll"]
        check_error(response, status=409, code="dataset_not_ready", param="dataset", message=message)

    def test_pending_teacher(self, client: TestClient) -> None:
        add_demo()
        teacher_id = add_teacher()
        response = client.post("/jobs", json=job_body(teacher=teacher_id))
        check_error(response, status=409, code="teacher_not_ready", param="teacher", message=[teacher_id, "pending"])

    def test_failed_dataset(self, client: TestClient) -> None:
        add_demo()
        dataset_id = add_dataset()
        with write_session() as session:
            imports.mark_failed(session, claimed(), code="dataset_one_class", message="All rows have one label.")
        response = client.post("/jobs", json=job_body(dataset=dataset_id))
        check_error(
            response,
            status=409,
            code="dataset_failed",
            param="dataset",
            message=["dataset_one_class", "All rows have one label.", "POST /datasets"],
        )

    def test_failed_teacher(self, client: TestClient) -> None:
        add_demo()
        teacher_id = add_teacher()
        with write_session() as session:
            imports.mark_failed(session, claimed(), code="teacher_hub_not_found", message="No such repository.")
        response = client.post("/jobs", json=job_body(teacher=teacher_id))
        check_error(response, status=409, code="teacher_failed", param="teacher", message=["No such repository."])

    @pytest.mark.parametrize(
        ("methods", "place"),
        [
            ({"method": {"type": "lelp"}}, "method"),
            ({"combine": [{"type": "lelp"}]}, "combine[0]"),
            ({"baselines": ["kd", "lelp"]}, "baselines[1]"),
        ],
    )
    def test_subclasses_of_more_classes_than_the_teacher_has_dimensions(
        self, methods: dict[str, Any], place: str, client: TestClient
    ) -> None:
        """Harm: the job fails when a worker has taken it, and its teacher was tuned for nothing."""
        labels = [f"class {number}" for number in range(32)]
        add_demo(teacher={"hidden_size": 32, "num_labels": 32, "labels": labels}, dataset={"labels": labels})
        response = client.post("/jobs", json=job_body(**methods))
        check_error(
            response,
            status=422,
            code="teacher_too_narrow",
            param=place,
            message=["'lelp'", "32 dimensions", "32 classes", "'kd'"],
        )

    def test_a_gate_for_synthetic_rows_where_nothing_makes_any(self, client: TestClient) -> None:
        add_demo()
        gated = [{"type": "llkd", "gated": "synthetic"}]
        response = client.post("/jobs", json=job_body(method={"type": "kd"}, combine=gated))
        check_error(
            response,
            status=422,
            code="gate_without_rows",
            param="combine[0].gated",
            message=["'sage'", "'random_anchors'", "'dts_demo'"],
        )
        assert client.post("/jobs", json=job_body(method={"type": "sage"}, combine=gated)).status_code == 202

    def test_no_gate_for_rows_without_label_where_the_dataset_has_some(self, client: TestClient) -> None:
        add_demo(dataset={"unlabelled_rows": 40})
        gated = [{"type": "llkd", "gated": "synthetic"}]
        assert client.post("/jobs", json=job_body(method={"type": "kd"}, combine=gated)).status_code == 202

    @pytest.mark.parametrize(
        ("body", "place", "way_out"),
        [
            ({"method": {"type": "kd", "alpha": 0}}, "method.alpha", "without unlabelled rows"),
            ({"method": {"type": "bd_kd", "weight": 0}}, "method.weight", "without unlabelled rows"),
            ({"method": {"type": "sage", "alpha": 0}}, "method.alpha", "without unlabelled rows"),
            (
                {"method": {"type": "oversample", "alpha": 0}, "combine": [{"type": "pld"}], "baselines": ["kd"]},
                "baselines[0]",
                "leave the baseline out",
            ),
        ],
    )
    def test_unlabelled_rows_from_which_nothing_would_be_learnt(
        self, body: dict[str, Any], place: str, way_out: str, client: TestClient
    ) -> None:
        """Harm: most of the budget goes into rows whose loss is zero, and nobody is told."""
        add_demo(dataset={"unlabelled_rows": 40})
        check_error(
            client.post("/jobs", json=job_body(**body)),
            status=422,
            code="unlabelled_rows_wasted",
            param=place,
            message=["is 0", "40 rows of dataset 'dts_demo' have no label", way_out],
        )

    def test_no_labels_are_needed_beside_unlabelled_rows_by_what_learns_from_labels_alone(
        self, client: TestClient
    ) -> None:
        """Harm: the baseline that every student has to beat is refused."""
        add_demo(dataset={"unlabelled_rows": 40})
        for body in ({"method": {"type": "fine_tune"}}, {"method": {"type": "kd"}, "baselines": ["fine_tune"]}):
            assert client.post("/jobs", json=job_body(**body)).status_code == 202

    def test_target_that_stays_the_students_own(self, client: TestClient) -> None:
        """Harm: a job that succeeds with a student that learnt nothing."""
        add_demo()
        method = {"type": "taid", "lambda_start": 0, "lambda_end": 0}
        check_error(
            client.post("/jobs", json=job_body(method=method)),
            status=422,
            code="target_without_teacher",
            param="method.lambda_end",
            message=["method.lambda_end is 0", "Raise it"],
        )
        assert client.post("/jobs", json=job_body(method=method | {"lambda_end": 0.1})).status_code == 202

    @pytest.mark.parametrize(
        ("methods", "place"),
        [
            ({"method": {"type": "sage", "alpha": 0}}, "method.alpha"),
            ({"combine": [{"type": "taid", "alpha": 0}]}, "combine[0].alpha"),
            ({"method": {"type": "bd_kd", "weight": 0}, "combine": [{"type": "random_anchors"}]}, "method.weight"),
        ],
    )
    def test_new_rows_from_which_nothing_would_be_learnt(
        self, methods: dict[str, Any], place: str, client: TestClient
    ) -> None:
        """Harm: a third of the budget goes into rows whose loss is zero, and nobody is told."""
        add_demo()
        response = client.post("/jobs", json=job_body(**methods))
        check_error(
            response,
            status=422,
            code="new_rows_wasted",
            param=place,
            message=[f"{place} is 0", "no label", "Raise it", "synthetic_ratio"],
        )

    def test_new_rows_of_a_baseline_from_which_nothing_would_be_learnt(self, client: TestClient) -> None:
        """Harm: as above, and the method is judged by what is left of the baseline."""
        add_demo()
        method = {"type": "kd", "alpha": 0}
        response = client.post("/jobs", json=job_body(method=method, baselines=["fine_tune", "random_anchors"]))
        check_error(
            response,
            status=422,
            code="new_rows_wasted",
            param="baselines[1]",
            message=["'random_anchors'", "alpha is 0", "leave the baseline out"],
        )
        assert client.post("/jobs", json=job_body(method=method, baselines=["oversample"])).status_code == 202

    def test_student_with_more_layers_than_the_teacher(self, client: TestClient) -> None:
        add_demo(teacher={"layers": 6})
        response = client.post("/jobs", json=job_body(student={"layers": 7}))
        check_error(
            response,
            status=422,
            code="student_too_deep",
            param="student.layers",
            message=["is 7", "6 layers", "6 or fewer"],
        )

    def test_rows_longer_than_the_teacher_reads(self, client: TestClient) -> None:
        add_demo(teacher={"max_positions": 64})
        response = client.post("/jobs", json=job_body(training={"max_length": 65}))
        check_error(response, status=422, code="max_length_too_long", param="training.max_length", message=["65", "64"])

    def test_encoder_without_tuning(self, client: TestClient) -> None:
        add_demo(teacher={"num_labels": None})
        response = client.post("/jobs", json=job_body(teacher_tuning=None))
        check_error(
            response,
            status=422,
            code="teacher_needs_tuning",
            param="teacher_tuning",
            message=["'tch_demo'", "pretrained encoder", "teacher_tuning"],
        )

    def test_another_number_of_labels(self, client: TestClient) -> None:
        add_demo(teacher={"num_labels": 3, "labels": ["a", "b", "c"]})
        response = client.post("/jobs", json=job_body(teacher_tuning=None))
        check_error(
            response,
            status=422,
            code="label_count_mismatch",
            param="teacher",
            message=["3 classes", "has 2", "teacher_tuning"],
        )

    def test_other_names_of_labels(self, client: TestClient) -> None:
        add_demo(teacher={"num_labels": 2, "labels": ["balance", "refund"]})
        response = client.post("/jobs", json=job_body(teacher_tuning=None))
        check_error(
            response, status=422, code="label_name_mismatch", param="teacher", message=["'refund'", "'transfer'"]
        )

    @pytest.mark.parametrize("labels", [["LABEL_1", "LABEL_0"], ["LABEL_1", "LABEL_2"], ["LABEL_0", "LABEL_00"]])
    def test_names_that_only_look_like_none(self, client: TestClient, labels: list[str]) -> None:
        """Harm: the job is accepted, waits for its turn and fails, because the engine takes them for names."""
        add_demo(teacher={"num_labels": 2, "labels": labels})
        response = client.post("/jobs", json=job_body(teacher_tuning=None))
        check_error(response, status=422, code="label_name_mismatch", param="teacher", message=[repr(labels[-1])])

    @pytest.mark.parametrize("labels", [["transfer", "balance"], ["LABEL_0", "LABEL_1"], None])
    def test_labels_in_another_order_or_without_names_are_accepted(
        self, client: TestClient, labels: list[str] | None
    ) -> None:
        add_demo(teacher={"num_labels": 2, "labels": labels})
        assert client.post("/jobs", json=job_body(teacher_tuning=None)).status_code == 202

    def test_leaves_no_job(self, client: TestClient) -> None:
        add_demo()
        client.post("/jobs", json=job_body(student={"layers": 7}), headers={"Idempotency-Key": "k"})
        with read_session() as session:
            assert jobs.list_page(session).rows == []
        # The key is free too: the corrected request goes through.
        assert client.post("/jobs", json=job_body(), headers={"Idempotency-Key": "k"}).status_code == 202
