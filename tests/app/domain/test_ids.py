import time

import pytest

from app.domain.ids import DEMO_DATASET_ID, DEMO_TEACHER_ID, is_id, new_id, new_run_token


class TestNewId:
    @pytest.mark.parametrize(("kind", "prefix"), [("job", "job_"), ("dataset", "dts_"), ("teacher", "tch_")])
    def test_names_its_kind(self, kind: str, prefix: str) -> None:
        row_id = new_id(kind)
        assert row_id.startswith(prefix)
        assert len(row_id) == len(prefix) + 26
        assert is_id(row_id)

    def test_sorts_by_the_time_of_making(self) -> None:
        earlier = new_id("job")
        time.sleep(0.002)
        assert earlier < new_id("job")

    def test_is_never_the_same(self) -> None:
        assert len({new_id("job") for _ in range(1000)}) == 1000


class TestIsId:
    @pytest.mark.parametrize("text", [DEMO_DATASET_ID, DEMO_TEACHER_ID])
    def test_knows_the_readable_ids_of_the_demo(self, text: str) -> None:
        assert is_id(text)

    @pytest.mark.parametrize("text", ["", "job_", "job_../x", "run_abc", "job_ABC", "job_a\n", "xjob_a"])
    def test_refuses_anything_else(self, text: str) -> None:
        assert not is_id(text)


class TestNewRunToken:
    def test_can_stand_in_an_object_key(self) -> None:
        assert new_run_token().isalnum()
