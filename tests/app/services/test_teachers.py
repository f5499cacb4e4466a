import pytest

from app.services import teachers
from app.settings import get_settings
from tests.app.test_queue import take_messages
from tests.fixtures.factories import read_teacher

pytestmark = pytest.mark.usefixtures("sqlite_database", "filesystem_broker")

SOURCE = {"type": "hub", "repo": "org/name", "revision": "main"}


class TestRegister:
    def test_takes_an_id_of_the_caller_s_choice(self) -> None:
        teachers.register(get_settings(), source=SOURCE, teacher_id="tch_demo", name="demo")
        assert (read_teacher("tch_demo").status, read_teacher("tch_demo").source) == ("pending", SOURCE)

    def test_leaves_an_id_that_exists_as_it_stands(self) -> None:
        for name in ("first", "second"):
            teacher = teachers.register(get_settings(), source=SOURCE, teacher_id="tch_demo", name=name)
        assert teacher.name == "first"
        assert len(take_messages()) == 1
