"""Folders of images with links: to folders, to themselves, and two to one."""

from pathlib import Path

import pytest
from PIL import Image

from tombola.data import folder


@pytest.fixture
def images(tmp_path, monkeypatch):
    monkeypatch.setenv("TOMBOLA_CACHE", str(tmp_path / "cache"))
    root = tmp_path / "pets"
    for at in ("train/cat", "train/dog", "test/cat", "test/dog", "../elsewhere/deep"):
        (root / at).mkdir(parents=True)
        Image.new("L", (4, 4), 9).save(root / at / "0.png")
    return root


def counts(root: Path) -> list[int]:
    return folder(str(root)).train[1].bincount().tolist()


def test_images_in_linked_folders_are_read(images):
    (images / "train/cat/more").symlink_to(images.parent / "elsewhere")
    assert counts(images) == [2, 1]


def test_a_class_may_be_a_link(images):
    (images / "train/cow").symlink_to(images.parent / "elsewhere")
    assert counts(images) == [1, 1, 1]


def test_a_folder_that_links_lead_to_twice_or_in_a_circle_is_read_once(images):
    for name in ("a", "b"):
        (images / "train/dog" / name).symlink_to(images.parent / "elsewhere")
    (images / "train/dog/circle").symlink_to(images / "train/dog")
    (images.parent / "elsewhere/back").symlink_to(images / "train/dog")
    assert counts(images) == [1, 2]
