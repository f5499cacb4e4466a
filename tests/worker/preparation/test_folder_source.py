"""A folder that the worker's user may not read fails the import with what helps, not the worker."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fixtures.ordinary_user import folder_for_all, ordinary_uid, output_as_ordinary_user
from worker.preparation.errors import PreparationFailed
from worker.preparation.folder_source import copy_folder

COPY = """
import sys
from pathlib import Path
from tests.fixtures.ordinary_user import become_ordinary_user
from worker.preparation.errors import PreparationFailed
from worker.preparation.folder_source import copy_folder

allowed, source, copy = map(Path, sys.argv[1:])
become_ordinary_user()
try:
    copy_folder(source, copy, allowed=[allowed])
except PreparationFailed as error:
    print(error.code, error)
else:
    print(*sorted(path.name for path in copy.iterdir()))
"""
FILES = ("config.json", "model.safetensors", "tokenizer.json")


@pytest.fixture
def allowed() -> Iterator[Path]:
    with folder_for_all() as folder:
        yield folder


@pytest.fixture
def teacher(allowed: Path) -> Path:
    """A folder with the names of a teacher's files."""
    folder = allowed / "bert"
    folder.mkdir()
    for name in FILES:
        (folder / name).write_text("{}")
        (folder / name).chmod(0o644)
    return folder


def copied(allowed: Path, source: Path) -> str:
    """What copying says to a user who is not root and owns none of it."""
    return output_as_ordinary_user(COPY, allowed, source, allowed / "copy")


class TestCopyFolder:
    def test_file_that_is_its_owner_s_alone(self, allowed: Path, teacher: Path) -> None:
        """Harm: what `save_pretrained` wrote ends as an error of the worker's own, which then rests."""
        (teacher / "model.safetensors").chmod(0)
        assert copied(allowed, teacher) == (
            f"teacher_folder_refused 'model.safetensors' of {teacher} cannot be read by the worker's user "
            f"(uid {ordinary_uid()}). Run `chmod -R a+rX {teacher}` on the machine that has it, or make that user its "
            "owner; then post the teacher again."
        )
        assert not (allowed / "copy").exists()

    def test_file_that_is_no_part_of_the_teacher_may_be_closed(self, allowed: Path, teacher: Path) -> None:
        (teacher / "training_args.bin").write_text("pickle")
        (teacher / "training_args.bin").chmod(0)
        assert copied(allowed, teacher) == " ".join(FILES)

    @pytest.mark.parametrize("mode", [0o044, 0o011], ids=["not to be entered", "not to be listed"])
    def test_folder_that_is_closed(self, allowed: Path, teacher: Path, mode: int) -> None:
        teacher.chmod(mode)
        said = copied(allowed, teacher)
        assert said.startswith(f"teacher_folder_refused {teacher} cannot be read by the worker's user")
        assert f"`chmod -R a+rX {teacher}`" in said

    def test_folder_within_one_that_is_closed(self, allowed: Path, teacher: Path) -> None:
        """Harm: the folder itself is opened, again and again, in vain."""
        around = allowed / "models of anna"
        around.mkdir()
        moved = teacher.rename(around / "bert")
        around.chmod(0)
        said = copied(allowed, moved)
        assert said.startswith(f"teacher_folder_refused {around} cannot be entered by the worker's user")
        assert f"`chmod a+x '{around}'`" in said

    def test_links_into_a_folder_that_is_closed(self, allowed: Path, teacher: Path) -> None:
        """As the hub's own cache has them: opening the folder with the links alone would not help."""
        blobs = allowed / "blobs"
        blobs.mkdir()
        (teacher / "config.json").rename(blobs / "1f2e")
        (teacher / "config.json").symlink_to("../blobs/1f2e")
        blobs.chmod(0)
        said = copied(allowed, teacher)
        assert said.startswith(f"teacher_folder_refused 'config.json' of {teacher} cannot be read")
        assert f"`chmod -R a+rX {blobs}`" in said

    def test_name_that_is_too_long(self, tmp_path: Path) -> None:
        """Harm: it counts as a fault of the worker."""
        with pytest.raises(PreparationFailed) as caught:
            copy_folder(tmp_path / ("x" * 300), tmp_path / "copy", allowed=[tmp_path])
        assert caught.value.code == "teacher_files_missing"
