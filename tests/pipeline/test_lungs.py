"""The task that learns lungs, on drawn X-rays."""

from dataclasses import replace

import cv2
import numpy as np
import pytest

from cxr.config import Config
from cxr.datasets.lungs.dataset import Lungs
from cxr.datasets.lungs.files import read_lungs
from cxr.datasets.lungs.synthetic import draw_picture, write_lungs
from cxr.geometry.masks import decode_runs
from cxr.system.errors import InputError


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("input") / "lung-masks"
    assert write_lungs(path, n_train=6, n_test=2, side=96) and not write_lungs(
        path, n_train=6, n_test=2, side=96
    )
    return path


def test_tables_of_drawn_lungs(folder):
    train, test, notes = read_lungs(folder)
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
    assert len(read_lungs(tmp_path)[0]) == 1


def test_folders_that_do_not_fit(folder, tmp_path):
    with pytest.raises(InputError, match="needs the folders cxr and masks"):
        read_lungs(tmp_path)
    for name in ("cxr", "masks"):
        (tmp_path / name).mkdir()
        side = 64 if name == "cxr" else 32
        cv2.imwrite(str(tmp_path / name / "a.png"), np.zeros((side, side), np.uint8))
    with pytest.raises(InputError, match="masks/a.png is not of the size of its picture"):
        read_lungs(tmp_path)


def test_consolidations_leave_the_mask():
    healthy, ill = (draw_picture(np.random.default_rng(4), ill, 96) for ill in (0, 1))
    assert np.array_equal(healthy[1], ill[1]) and not np.array_equal(healthy[0], ill[0])


def test_networks_of_all_presets():
    for name, preset in Lungs.presets.items():
        model = Lungs().build_model(replace(Config(), **preset), load_weights=False)
        assert model.image_size == preset["image_size"] and model.label_head is None, name
