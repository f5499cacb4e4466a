import pytest

from app.errors import InvalidRequest
from app.services.dataset_files import check_file_name, stem


class TestCheckFileName:
    @pytest.mark.parametrize(
        ("name", "suffix"),
        [("a.csv", ".csv"), ("a.b.CSV.GZ", ".csv.gz"), ("Zeilen für alle.jsonl", ".jsonl"), ("a.parquet", ".parquet")],
    )
    def test_gives_the_suffix_in_lower_case(self, name: str, suffix: str) -> None:
        assert check_file_name(name, param="train") == suffix

    @pytest.mark.parametrize("name", ["a", "csv", ".csv", "a.gz", "a.csv.zip", "a.parquet.gz", "a.csv "])
    def test_refuses_an_unknown_format(self, name: str) -> None:
        with pytest.raises(InvalidRequest, match="format is not known") as caught:
            check_file_name(name, param="train")
        assert repr(name) in caught.value.message

    @pytest.mark.parametrize("name", ["a/b.csv", "a\\b.csv", "a\n.csv", "a\x00.csv", "a\ud800.csv", "x" * 250 + ".csv"])
    def test_refuses_a_name_that_is_not_plain(self, name: str) -> None:
        with pytest.raises(InvalidRequest) as caught:
            check_file_name(name, param="train")
        assert caught.value.code == "bad_file_name"


class TestStem:
    def test_is_the_name_without_the_format(self) -> None:
        assert stem("Rows.CSV.gz", ".csv.gz") == "Rows"
