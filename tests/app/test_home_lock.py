import fcntl
from pathlib import Path

import pytest

from app.home_lock import HomeTaken, home_lock, is_held, running_address


class TestHomeLock:
    def test_tells_others_where_the_system_is(self, tmp_path: Path) -> None:
        with home_lock(tmp_path) as lock:
            lock.publish("http://127.0.0.1:8123")
            assert running_address(tmp_path) == "http://127.0.0.1:8123"
        assert running_address(tmp_path) is None

    def test_refuses_a_second_one_and_names_the_first(self, tmp_path: Path) -> None:
        with home_lock(tmp_path) as lock:
            lock.publish("http://127.0.0.1:8123")
            with pytest.raises(HomeTaken) as refused, home_lock(tmp_path):
                pass
            assert refused.value.address == "http://127.0.0.1:8123"

    def test_is_not_kept_out_by_one_that_asks(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Harm: `stillhouse up` says that another one uses the home, where somebody only looked whether one does."""
        (tmp_path / "up.lock").touch()
        asking = (tmp_path / "up.lock").open()
        fcntl.flock(asking, fcntl.LOCK_SH)
        monkeypatch.setattr("app.home_lock.time.sleep", lambda _: asking.close())
        with home_lock(tmp_path):
            assert asking.closed
            assert is_held(tmp_path)

    def test_forgets_the_address_of_one_that_was_killed(self, tmp_path: Path) -> None:
        (tmp_path / "up.lock").write_text('{"pid": 1, "address": "http://127.0.0.1:1"}')
        assert running_address(tmp_path) is None
        with home_lock(tmp_path):
            assert running_address(tmp_path) is None

    def test_knows_no_address_of_a_folder_that_is_not_there(self, tmp_path: Path) -> None:
        assert running_address(tmp_path / "nothing") is None
