import pytest

from app.storage import keys


class TestKeys:
    def test_carry_the_run_token_wherever_a_worker_writes(self) -> None:
        assert keys.dataset_prepared("dts_a", "t1") == "datasets/dts_a/t1/prepared"
        assert keys.teacher_files("tch_a", "t1") == "teachers/tch_a/t1"
        assert keys.job_checkpoint("job_a", "t1", 42) == "jobs/job_a/t1/checkpoints/00000042"
        assert keys.job_artifact("job_a", "t1", "onnx/model.onnx") == "jobs/job_a/t1/artifact/onnx/model.onnx"

    def test_name_uploads_by_split(self) -> None:
        assert keys.dataset_upload("dts_a", "train", ".csv.gz") == "datasets/dts_a/uploads/train.csv.gz"

    def test_name_cached_content_by_its_hash(self) -> None:
        assert keys.cache_file("teacher_outputs", "abc", "logits.bin") == "cache/teacher_outputs/abc/logits.bin"

    @pytest.mark.parametrize("name", ["../x", "a/../../x", "/etc/passwd", "", "a//b", "a b", ".hidden", "a\x00", "é"])
    def test_refuse_names_that_lead_elsewhere(self, name: str) -> None:
        with pytest.raises(ValueError, match="cannot be part of an object key"):
            keys.job_artifact("job_a", "t1", name)
        with pytest.raises(ValueError, match="cannot be part of an object key"):
            keys.inside("jobs/job_a", name)


class TestIsUnder:
    def test_does_not_take_a_longer_name_for_a_child(self) -> None:
        assert keys.is_under("jobs/a/x", "jobs/a")
        assert keys.is_under("jobs/a", "jobs/a")
        assert not keys.is_under("jobs/ab/x", "jobs/a")
