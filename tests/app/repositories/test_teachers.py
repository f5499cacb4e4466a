import pytest

from app.db.session import read_session, write_session
from app.errors import LeaseLost
from app.repositories import imports, teachers
from tests.fixtures.factories import add_teacher, claimed, read_teacher, ready_teacher

pytestmark = pytest.mark.usefixtures("database")


class TestListPage:
    def test_gives_newest_first(self) -> None:
        made = [add_teacher() for _ in range(3)]
        with read_session() as session:
            page = teachers.list_page(session, limit=2)
            rest = teachers.list_page(session, limit=2, after=page.next)
        assert [row.id for row in [*page.rows, *rest.rows]] == made[::-1]


class TestMarkReady:
    def test_records_what_the_checks_found(self) -> None:
        teacher_id = add_teacher(source={"type": "hub", "repo": "org/name", "revision": "main"})
        ready_teacher(claimed(), num_labels=2, labels=["no", "yes"])
        teacher = read_teacher(teacher_id)
        assert (teacher.status, teacher.family, teacher.layers, teacher.num_labels) == ("ready", "bert", 6, 2)
        assert teacher.source == {"type": "hub", "repo": "org/name", "revision": "main"}
        assert teacher.labels == ["no", "yes"]
        assert teacher.run_token is None

    def test_leaves_an_encoder_without_labels(self) -> None:
        teacher_id = add_teacher()
        ready_teacher(claimed())
        teacher = read_teacher(teacher_id)
        assert (teacher.num_labels, teacher.labels) == (None, None)


class TestMarkFailed:
    def test_records_why_and_happens_once(self) -> None:
        teacher_id = add_teacher()
        claim = claimed()
        with write_session() as session:
            imports.mark_failed(session, claim, code="teacher_files_missing", message="config.json is missing")
        teacher = read_teacher(teacher_id)
        assert (teacher.status, teacher.error_code) == ("failed", "teacher_files_missing")
        with pytest.raises(LeaseLost):
            ready_teacher(claim)


class TestRemove:
    def test_says_whether_there_was_one(self) -> None:
        teacher_id = add_teacher()
        with write_session() as session:
            assert imports.remove(session, "teacher", teacher_id)
        with write_session() as session:
            assert not imports.remove(session, "teacher", teacher_id)
