from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from functools import partial
from pathlib import Path

import pytest

from app.db.session import read_session, write_session
from app.errors import Conflict, JobNotFound
from app.repositories import jobs
from app.repositories import teachers as teacher_rows
from app.services import jobs as job_service
from app.services import teachers
from app.settings import get_settings
from tests.app.routes.helpers import succeeded_job
from tests.app.test_queue import take_messages
from tests.fixtures.environment import ChangeSettings
from tests.fixtures.factories import read_job, read_teacher
from tests.fixtures.ordinary_user import folder_for_all, ordinary_uid, output_as_ordinary_user
from tests.fixtures.racing import race

SOURCE = {"type": "hub", "repo": "org/name", "revision": "main"}


@pytest.mark.usefixtures("sqlite_database", "filesystem_broker")
class TestRegister:
    def test_takes_an_id_of_the_caller_s_choice(self) -> None:
        teachers.register(get_settings(), source=SOURCE, teacher_id="tch_demo", name="demo")
        assert (read_teacher("tch_demo").status, read_teacher("tch_demo").source) == ("pending", SOURCE)

    def test_leaves_an_id_that_exists_as_it_stands(self) -> None:
        for name in ("first", "second"):
            teacher = teachers.register(get_settings(), source=SOURCE, teacher_id="tch_demo", name=name)
        assert teacher.name == "first"
        assert len(take_messages()) == 1


REGISTER = """
import sys
from app.errors import InvalidRequest
from app.services import teachers
from app.settings import get_settings
from tests.fixtures.ordinary_user import become_ordinary_user

settings = get_settings()
become_ordinary_user()
try:
    teachers.register(settings, source={"type": "folder", "path": sys.argv[1]})
except InvalidRequest as error:
    print(error.code, error.param, error)
"""


class TestFolderThatIsClosed:
    @pytest.fixture
    def allowed(self, change_settings: ChangeSettings) -> Iterator[Path]:
        with folder_for_all() as folder:
            change_settings(teacher_dirs=folder)
            yield folder

    @pytest.mark.parametrize("mode", [0o044, 0o011], ids=["not to be entered", "not to be listed"])
    def test_is_refused_with_what_opens_it(self, allowed: Path, mode: int) -> None:
        """Harm: who posts it learns from the worker, later, that something is wrong, and from nobody what helps."""
        teacher = allowed / "bert"
        teacher.mkdir()
        teacher.chmod(mode)
        said = output_as_ordinary_user(REGISTER, teacher)
        assert said.startswith(f"folder_not_readable source.path source.path is '{teacher}'. {teacher} cannot be read")
        assert f"(uid {ordinary_uid()}). Run `chmod -R a+rX {teacher}`" in said

    def test_is_refused_by_the_name_of_the_one_around_it(self, allowed: Path) -> None:
        """Harm: the folder itself is opened, again and again, in vain."""
        around = allowed / "models of anna"
        (around / "bert").mkdir(parents=True)
        around.chmod(0)
        said = output_as_ordinary_user(REGISTER, around / "bert")
        assert said.startswith("folder_not_readable source.path")
        assert f"{around} cannot be entered" in said
        assert f"`chmod a+x '{around}'`" in said


@pytest.mark.usefixtures("filesystem_broker")
class TestRegisterAndTheDeletionOfTheJob:
    """Harm: a teacher that was accepted, and no file of it is left anywhere."""

    @pytest.mark.usefixtures("database")
    def test_do_not_cross(self) -> None:
        for job_id in [succeeded_job() for _ in range(5)]:
            registered, deleted = race(2, partial(_register_or_delete, job_id))
            assert registered is not deleted

    @pytest.mark.usefixtures("postgres_database")  # on SQLite one transaction writes at a time
    def test_one_waits_for_the_other(self) -> None:
        job_id = succeeded_job()
        with ThreadPoolExecutor(1) as pool:
            with write_session() as session:
                jobs.delete_terminal(session, job_id)
                registered = pool.submit(_register_or_delete, job_id, 0)
                assert not wait([registered], timeout=0.5).done
            assert registered.result() is False
        with read_session() as session:
            assert teacher_rows.list_page(session).rows == []
        job_id = succeeded_job()
        with ThreadPoolExecutor(1) as pool:
            with write_session() as session:
                jobs.lock(session, job_id)
                teacher_rows.create(session, teacher_id="tch_new", name=None, source={"type": "job", "job": job_id})
                deleted = pool.submit(_register_or_delete, job_id, 1)
                assert not wait([deleted], timeout=0.5).done
            assert deleted.result() is False
        assert read_job(job_id).status == "succeeded"


def _register_or_delete(job_id: str, number: int) -> bool:
    """Whether it was not refused."""
    try:
        if number == 1:
            job_service.delete(get_settings(), job_id)
        else:
            teachers.register(get_settings(), source={"type": "job", "job": job_id})
    except (Conflict, JobNotFound):
        return False
    return True
