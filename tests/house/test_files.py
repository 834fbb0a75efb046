"""What is written aside is in its place whole, or not at all."""

import pytest

from tombola.files import written_aside


def test_a_file_is_replaced_whole_or_left_as_it_was(tmp_path):
    path = tmp_path / "it.json"
    path.write_text("old")
    with pytest.raises(UnicodeEncodeError), written_aside(path) as aside:
        aside.write_text("n" * 10_000 + "\ud800", encoding="utf-8")
    assert path.read_text() == "old"
    with written_aside(path) as aside:
        aside.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]


def half_a_folder(path):
    (path / "part").mkdir(parents=True)
    path.mkdir()


def test_a_folder_too_even_where_a_killed_process_has_left_one(tmp_path):
    path, aside = tmp_path / "it", tmp_path / "aside"
    aside.mkdir()
    (aside / "left").touch()
    with written_aside(path, aside) as given:
        assert given == aside
        given.mkdir()
        (given / "part").touch()
    assert [file.name for file in path.iterdir()] == ["part"]
    with pytest.raises(FileExistsError), written_aside(tmp_path / "other", aside) as given:
        half_a_folder(given)
    assert list(tmp_path.iterdir()) == [path]
