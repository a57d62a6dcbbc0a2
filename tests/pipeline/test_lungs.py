"""Lung boxes, cutting and pasting, and the task that learns lungs, on drawn X-rays."""

from dataclasses import replace

import cv2
import numpy as np
import pytest

from cxr.config import Config
from cxr.datasets.lungs.dataset import Lungs
from cxr.datasets.lungs.files import read_tables
from cxr.datasets.lungs.synthetic import draw_picture, write_lungs
from cxr.geometry.crops import crop_at, cut
from cxr.geometry.lung_box import lung_box, paste
from cxr.geometry.masks import decode_runs
from cxr.system.disk import InputError


def drawn(*boxes, side=1024):
    probability = np.zeros((side, side), np.float32)
    for x1, y1, x2, y2 in boxes:
        probability[y1:y2, x1:x2] = 0.9
    return probability


def test_the_box_holds_both_lungs_and_a_margin():
    assert lung_box(drawn((200, 150, 450, 700), (550, 180, 800, 750)), 1024, 1024) == (
        160,
        110,
        840,
        790,
    )


def test_small_parts_do_not_count():
    assert lung_box(drawn((200, 150, 800, 700), (900, 900, 940, 949)), 1024, 1024) == (
        160,
        110,
        840,
        740,
    )
    assert lung_box(drawn((200, 150, 800, 700), (900, 900, 940, 950)), 1024, 1024) == (
        160,
        110,
        980,
        990,
    )


def test_the_margin_ends_at_the_edge():
    assert lung_box(drawn((10, 20, 1010, 1000)), 1024, 1024) == (0, 0, 1024, 1024)


@pytest.mark.parametrize("boxes", [[], [(5, 5, 20, 20)], [(500, 500, 600, 600)]])
def test_without_lungs_the_whole_picture(boxes):
    """Nothing, only specks, or a box that stays below 300 x 300 pixels with its margin."""
    assert lung_box(drawn(*boxes), 640, 480) == (0, 0, 640, 480)


@pytest.mark.parametrize("kind", [np.float32, np.uint8])
def test_maps_of_any_size_give_original_pixels(kind):
    probability = drawn((50, 50, 200, 200), side=256)
    probability = probability if kind is np.float32 else (255 * probability).astype(kind)
    box = lung_box(probability, 2000, 1000)
    assert box == pytest.approx(
        (50 / 256 * 2000 - 78, 50 / 256 * 1000 - 39, 200 / 256 * 2000 + 78, 200 / 256 * 1000 + 39),
        abs=1,
    )


@pytest.mark.parametrize("side", [512, 256])
def test_what_was_cut_comes_back_to_its_place(side):
    rng = np.random.default_rng(0)
    original = cv2.GaussianBlur(rng.random((512, 512)).astype(np.float32), (0, 0), 12)
    box = (96, 64, 416, 448)
    part = cut(
        cv2.resize(original, (side, side), interpolation=cv2.INTER_AREA),
        crop_at(box, 512, 512, side),
    )
    whole = paste(cv2.resize(part, (96, 96), interpolation=cv2.INTER_AREA), box, 512, 512)
    inside = np.s_[64:448, 96:416]
    assert part.shape == (384 * side // 512, 320 * side // 512)
    assert np.abs(whole[inside] - original[inside]).max() < 0.05
    whole[inside] = 0
    assert not whole.any()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("input") / "lung-masks"
    assert write_lungs(path, n_train=6, n_test=2, side=96) and not write_lungs(
        path, n_train=6, n_test=2, side=96
    )
    return path


def test_tables_of_drawn_lungs(folder):
    train, test, notes = read_tables(folder)
    assert len(train) == 6 and len(test) == 2 and "2 pictures have no mask" in notes[0]
    assert set(train["stratum"]) == {"normal", "tuberculosis"} and train["label"].eq(1).all()
    mask = (
        cv2.imread(str(folder / "masks" / f"{train['image_id'][2]}.png"), cv2.IMREAD_GRAYSCALE)
        > 127
    )
    assert np.array_equal(decode_runs(train["mask"][2], 96, 96), mask) and 0.1 < mask.mean() < 0.6
    assert (train["n_boxes"] == 2).mean() > 0.5


def test_masks_may_be_named_after_their_picture(folder, tmp_path):
    for name in ("cxr", "masks"):
        (tmp_path / name).mkdir()
    source = sorted((folder / "masks").glob("*.png"))[0]
    (tmp_path / "masks" / f"{source.stem}_mask.png").write_bytes(source.read_bytes())
    (tmp_path / "cxr" / source.name).write_bytes((folder / "cxr" / source.name).read_bytes())
    assert len(read_tables(tmp_path)[0]) == 1


def test_folders_that_do_not_fit(folder, tmp_path):
    with pytest.raises(InputError, match="needs the folders cxr and masks"):
        read_tables(tmp_path)
    for name in ("cxr", "masks"):
        (tmp_path / name).mkdir()
        side = 64 if name == "cxr" else 32
        cv2.imwrite(str(tmp_path / name / "a.png"), np.zeros((side, side), np.uint8))
    with pytest.raises(InputError, match="masks/a.png is not of the size of its picture"):
        read_tables(tmp_path)


def test_consolidations_leave_the_mask():
    healthy, ill = (draw_picture(np.random.default_rng(4), ill, 96) for ill in (0, 1))
    assert np.array_equal(healthy[1], ill[1]) and not np.array_equal(healthy[0], ill[0])


def test_networks_of_all_presets():
    for name, preset in Lungs.presets.items():
        model = Lungs().build_model(replace(Config(), **preset), load_weights=False)
        assert model.image_size == preset["image_size"] and model.label_head is None, name
