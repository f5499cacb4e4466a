import os
from pathlib import Path

import pytest
from pydantic import ValidationError

from app.settings import Settings, get_settings


class TestSettings:
    def test_default_to_one_folder_in_the_home(
        self, home: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        monkeypatch.delenv("STILLHOUSE_HOME")
        monkeypatch.setenv("HOME", str(tmp_path))
        settings = Settings()
        assert settings.home == tmp_path / ".stillhouse"
        assert settings.database_url == f"sqlite:///{settings.home}/stillhouse.db"
        assert settings.object_store_url == f"file://{settings.home}/objects"
        assert settings.queue_dir == settings.home / "queue"
        assert settings.work_dir == settings.home / "work"
        assert settings.embedded
        assert settings.host == "127.0.0.1"
        assert home != settings.home

    def test_make_a_relative_home_absolute(self, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("STILLHOUSE_HOME", "data")
        settings = Settings()
        assert settings.home == Path.cwd() / "data"
        assert settings.database_path == Path.cwd() / "data" / "stillhouse.db"
        assert not home.exists()

    def test_split_the_teacher_folders_like_path(self, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("STILLHOUSE_TEACHER_DIRS", os.pathsep.join([str(home), "/models", ""]))
        assert Settings().teacher_dirs == [home, Path("/models")]

    def test_take_an_empty_variable_for_an_absent_one(self, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """A file of variables names all of them, to be filled in."""
        plain = Settings()
        for name in Settings.model_fields:
            if name != "home":
                monkeypatch.setenv(f"STILLHOUSE_{name.upper()}", "")
        assert Settings() == plain
        assert plain.home == home

    def test_take_none_for_ever(self, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        assert Settings().checkpoint_retention_days == 7
        monkeypatch.setenv("STILLHOUSE_CHECKPOINT_RETENTION_DAYS", "none")
        assert Settings().checkpoint_retention_days is None
        assert not home.exists()

    def test_take_none_for_nothing_also_where_that_is_no_number(
        self, home: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Harm: the value that docs/operations.md gives as the default is refused."""
        plain = Settings()
        for name in ("otlp_endpoint", "teacher_dirs", "allowed_hosts", "hub_token", "metrics_port"):
            monkeypatch.setenv(f"STILLHOUSE_{name.upper()}", "none")
        assert Settings() == plain
        monkeypatch.setenv("STILLHOUSE_TRUSTED_PROXIES", "none")
        assert Settings().trusted_proxies == ""
        assert not home.exists()

    @pytest.mark.parametrize("scheme", ["postgres", "postgresql", "postgresql+psycopg"])
    def test_name_the_driver_of_postgresql(self, scheme: str) -> None:
        settings = Settings(database_url=f"{scheme}://u:p1@db/name")
        assert settings.database_url == "postgresql+psycopg://u:p1@db/name"
        assert not settings.embedded
        assert settings.database_path is None

    @pytest.mark.parametrize(
        ("name", "value", "said"),
        [
            ("database_url", "mysql://db/x", "not with 'mysql'"),
            ("broker_url", "amqp://mq", "not with 'amqp'"),
            ("object_store_url", "objects/here", "has to start with file:///"),
            ("lease_seconds", "8", "outlast at least two heartbeats"),
            ("port", "70000", "65535"),
            ("max_attempts", "0", "greater than or equal to 1"),
            ("engine_device", "gpu", "match pattern"),
        ],
    )
    def test_refuse_what_cannot_work(
        self, home: Path, monkeypatch: pytest.MonkeyPatch, name: str, value: str, said: str
    ) -> None:
        monkeypatch.setenv(f"STILLHOUSE_{name.upper()}", value)
        with pytest.raises(ValidationError, match=said):
            Settings()
        assert not home.exists()

    @pytest.mark.parametrize(
        "values",
        [
            {"database_url": "postgresql://app:changeme@db/x"},
            {"database_url": "postgresql://app:real1@db/x", "hub_token": "hf_xxx"},
            {"database_url": "postgresql://app:real1@db/x", "broker_url": "redis://:Secret@mq/0"},
        ],
    )
    def test_refuse_placeholder_secrets_in_a_cluster(self, values: dict[str, str]) -> None:
        with pytest.raises(ValidationError, match="still a placeholder"):
            Settings(**values)  # type: ignore[arg-type]

    def test_refuse_a_placeholder_that_the_store_would_use(self, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "changeme")
        with pytest.raises(ValidationError, match="AWS_SECRET_ACCESS_KEY is still a placeholder"):
            Settings(home=home, database_url="postgresql://app:real1@db/x")

    def test_let_placeholders_be_in_the_embedded_mode(self, home: Path) -> None:
        assert Settings(home=home, hub_token="changeme").embedded  # type: ignore[arg-type]

    def test_never_show_the_hub_token(self, home: Path) -> None:
        assert "hf_abc" not in repr(Settings(home=home, hub_token="hf_abc"))  # type: ignore[arg-type]

    def test_take_the_folder_of_a_queue_from_its_url(self, home: Path) -> None:
        assert Settings(home=home, broker_url="filesystem:///q/here").queue_dir == Path("/q/here")
        assert Settings(home=home, broker_url="redis://mq/0").queue_dir is None


class TestGetSettings:
    def test_reads_the_environment_once(self, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        assert get_settings().home == home
        monkeypatch.setenv("STILLHOUSE_PORT", "9")
        assert get_settings().port == 8000
