"""Folders that are linked belong to a data set; loops of links end."""

import pytest

from cxr.datasets.own.masks import find_masks
from cxr.datasets.own.voc import find_voc
from cxr.datasets.own.yolo import find_yolo
from cxr.datasets.pneumothorax.files import find_xrays
from cxr.methods.segmenter.mean_teacher import find_pictures
from cxr.system.walk import files_below, walk


@pytest.fixture
def linked(tmp_path):
    """A folder `set` that holds a file, a link to a folder beside it, and a loop."""
    elsewhere = tmp_path / "elsewhere"
    (elsewhere / "labels").mkdir(parents=True)
    (elsewhere / "masks").mkdir()
    for name in ("b.png", "labels/b.txt", "masks/b.png", "b.xml"):
        (elsewhere / name).write_text("<annotation>")
    folder = tmp_path / "set"
    folder.mkdir()
    (folder / "a.png").write_text("a")
    (folder / "linked").symlink_to(elsewhere)
    (folder / "loop").symlink_to(folder)
    (folder / "nowhere").symlink_to(tmp_path / "missing")
    return folder


def test_each_folder_is_visited_once(linked):
    visited = [str(each.path.relative_to(linked)) for each in walk(linked)]
    assert visited == [".", "linked", "linked/labels", "linked/masks"]
    below = [str(path.relative_to(linked)) for path in files_below(linked, ".png")]
    assert below == ["a.png", "linked/b.png", "linked/masks/b.png"]


def test_a_caller_leaves_folders_alone(linked):
    visited = []
    for each in walk(linked):
        visited.append(each.path.name)
        each.folders.clear()
    assert visited == ["set"]


def test_what_is_linked_is_found_by_all_readers(linked):
    assert sorted(find_xrays(linked)) == ["a", "b"]
    assert find_masks(linked) == [linked / "linked" / "masks" / "b.png"]
    assert find_yolo(linked) == [linked / "linked" / "labels" / "b.txt"]
    assert find_voc(linked) == [linked / "linked" / "b.xml"]
    assert find_pictures(linked)["image_id"].tolist() == ["a", "linked/b", "linked/masks/b"]
