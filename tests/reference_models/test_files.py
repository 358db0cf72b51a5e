"""Files and folders are written atomically."""

from pathlib import Path

import pytest

from reference_models.errors import UserError
from reference_models.files import write_folder, write_text, write_whole


def test_write_text_replaces_a_file_and_leaves_no_other_files(tmp_path: Path) -> None:
    for text in ("first", "größer 😀\n"):
        write_text(tmp_path / "a.txt", text)
        assert (tmp_path / "a.txt").read_bytes() == text.encode("utf-8")
    assert [path.name for path in tmp_path.iterdir()] == ["a.txt"]


def test_failed_write_does_not_change_the_file(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("whole")

    def fail(part: Path) -> None:
        part.write_text("ha")
        raise OSError(28, "No space left on device")

    with pytest.raises(UserError, match=r"cannot be written \(No space left on device\); free disk space"):
        write_whole(path, fail)
    assert path.read_text() == "whole"


def test_folder_is_written_atomically(tmp_path: Path) -> None:
    folder = tmp_path / "new" / "run"

    def fail(part: Path) -> None:
        (part / "half").touch()
        raise OSError(28, "No space left on device")

    with pytest.raises(UserError, match=r"cannot be written \(No space left on device\); free disk space"):
        write_folder(folder, fail)
    assert not folder.exists()
    write_folder(folder, lambda part: (part / "whole").touch())
    assert [path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*")] == [
        "new",
        "new/run",
        "new/run/whole",
    ]
