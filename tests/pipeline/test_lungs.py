"""The task that learns lungs, on drawn X-rays, and what finds lungs in any picture."""

import cv2
import numpy as np
import pytest
import torch
from torch import nn

from cxr.datasets.lungs.files import read_lungs
from cxr.datasets.lungs.synthetic import draw_picture, write_lungs
from cxr.geometry.masks import decode_runs
from cxr.inference.lung_crops import LungFinder, cut_to_box
from cxr.system.errors import InputError
from cxr.tasks import TASKS

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("input") / "lung-masks"
    is_new = write_lungs(path, n_train=6, n_test=2, side=96)
    assert is_new
    is_new = write_lungs(path, n_train=6, n_test=2, side=96)
    assert not is_new
    return path


def test_tables_of_drawn_lungs(folder):
    train, test, notes = read_lungs(folder)
    assert len(train) == 6
    assert len(test) == 2
    assert "2 pictures have no mask" in notes[0]
    assert set(train["stratum"]) == {"normal", "tuberculosis"}
    assert train["label"].eq(1).all()
    image_id = train["image_id"][2]
    drawn = cv2.imread(str(folder / "masks" / f"{image_id}.png"), cv2.IMREAD_GRAYSCALE)
    mask = drawn > 127
    assert np.array_equal(decode_runs(train["mask"][2], 96, 96), mask)
    assert 0.1 < mask.mean() < 0.6
    assert (train["n_boxes"] == 2).mean() > 0.5


def test_masks_may_be_named_after_their_picture(folder, tmp_path):
    for name in ("cxr", "masks"):
        (tmp_path / name).mkdir()
    mask = min((folder / "masks").glob("*.png"))
    picture = folder / "cxr" / mask.name
    (tmp_path / "masks" / f"{mask.stem}_mask.png").write_bytes(mask.read_bytes())
    (tmp_path / "cxr" / picture.name).write_bytes(picture.read_bytes())
    assert len(read_lungs(tmp_path)[0]) == 1


def test_endings_in_capitals_and_names_that_are_written_otherwise(folder, tmp_path):
    mask = next((folder / "masks").glob("*.png"))
    for name in ("cxr", "masks"):
        (tmp_path / name).mkdir()
    (tmp_path / "masks" / "07_mask.PNG").write_bytes(mask.read_bytes())
    picture = tmp_path / "cxr" / "07.PNG"
    picture.write_bytes((folder / "cxr" / mask.name).read_bytes())
    train, _, _ = read_lungs(tmp_path)
    assert train["image_id"].tolist() == ["07"]
    (tmp_path / "masks" / "07_mask.PNG").rename(tmp_path / "masks" / "7.png")
    with pytest.raises(InputError, match="lists 07 where the other has 7"):
        read_lungs(tmp_path)


def test_folders_that_do_not_fit(tmp_path):
    with pytest.raises(InputError, match="needs the folders cxr and masks"):
        read_lungs(tmp_path)
    for name, side in (("cxr", 64), ("masks", 32)):
        (tmp_path / name).mkdir()
        cv2.imwrite(str(tmp_path / name / "a.png"), np.zeros((side, side), np.uint8))
    with pytest.raises(InputError, match=r"masks/a.png is not of the size of its picture"):
        read_lungs(tmp_path)


def test_consolidations_leave_the_mask():
    healthy_picture, healthy_mask, *_ = draw_picture(np.random.default_rng(4), False, 96)
    ill_picture, ill_mask, *_ = draw_picture(np.random.default_rng(4), True, 96)
    assert np.array_equal(healthy_mask, ill_mask)
    assert not np.array_equal(healthy_picture, ill_picture)


def test_networks_of_all_presets():
    task = TASKS["lungs"]
    for name in task.presets:
        settings = task.settings_of({"preset": name})
        model = task.method.build_model(settings, task.dataset.labels, load_weights=False)
        assert model.image_size == settings.training.image_size, name
        assert model.label_head is None, name


class DarkIsLung(nn.Module):
    """Sure of lung where a picture is dark."""

    image_size = 64

    def forward(self, images):
        return {"mask": torch.where(images < 100, 9.0, -9.0)}


class NothingIsLung(DarkIsLung):
    def forward(self, images):
        return {"mask": torch.full(images.shape, -9.0)}


def picture_with_lungs(side=128):
    """Gray, and dark in the middle half."""
    picture = np.full((side, side), 200, np.uint8)
    picture[side // 4 : 3 * side // 4, side // 4 : 3 * side // 4] = 20
    return picture


def test_lungs_in_pixels_of_the_picture_and_of_the_original():
    finder = LungFinder([DarkIsLung()], CPU)
    lungs = finder.find(picture_with_lungs())
    assert lungs.mask.shape == (128, 128)
    assert lungs.mask.mean() == pytest.approx(0.25, abs=0.02)
    margin = 40 / 1024 * 128  # of the box around the mask, see lung_box.py
    assert lungs.box == pytest.approx([32 - margin, 32 - margin, 96 + margin, 96 + margin], abs=2)
    box = finder.find_box(picture_with_lungs(), 1280, 2560)
    assert box == pytest.approx([320 - 50, 640 - 100, 960 + 50, 1920 + 100], abs=20)


def test_several_networks_vote_and_without_lungs_the_picture_is_whole():
    finder = LungFinder([DarkIsLung(), NothingIsLung(), NothingIsLung()], CPU)
    assert finder.find_box(picture_with_lungs(), 300, 200) == (0, 0, 300, 200)
    assert not finder.find(picture_with_lungs()).mask.any()


def test_a_picture_cut_to_a_box_keeps_its_side():
    picture = picture_with_lungs()
    cut = cut_to_box(picture, (320, 320, 960, 960), 1280, 1280)
    assert cut.shape == picture.shape
    assert (cut == 20).all()
    whole = cut_to_box(picture, (0, 0, 1280, 1280), 1280, 1280)
    assert np.array_equal(whole, picture)


def test_a_run_that_does_not_exist(tmp_path):
    with pytest.raises(InputError, match=r"holds no trained network: train it first .*--run gone"):
        LungFinder.of_run(tmp_path, "gone", CPU)
