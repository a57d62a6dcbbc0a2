"""Images cut to the lungs: boxes found once, masks and boxes cut with the picture, answers put back
into it."""

import numpy as np
import pytest
import torch
from tiny_masks import SIDE, TINY_MASKS, mask_settings, write_tiny_masks
from torch import nn
from trained import first_fold

from cxr.data.batch import SampleContent
from cxr.data.dataset import XrayDataset
from cxr.data.predictions import read_predictions
from cxr.data.tables import read_table
from cxr.inference import lung_crops
from cxr.inference.lung_crops import CORNERS
from cxr.methods.segmenter.records import MaskPrediction
from cxr.run_folder import RunFolder
from cxr.steps.predict.predict_run import predict_run
from cxr.steps.train.engine import train_folds
from cxr.system.disk import write_json
from cxr.system.errors import InputError
from cxr.system.runtime import single_runtime

BOX = [16 - 2.5, 8 - 2.5, 48 + 2.5, 56 + 2.5]  # with the margin of 40 of 1024 pixels


@pytest.fixture(scope="module")
def working(tmp_path_factory):
    folder = tmp_path_factory.mktemp("masks")
    write_tiny_masks(folder)
    return folder


class Chest(nn.Module):
    """Sees lungs in a fixed place, 32 x 48 of 64 pixels."""

    image_size = SIDE

    def forward(self, images):
        logits = torch.full((len(images), 1, SIDE, SIDE), -9.0)
        logits[:, :, 8:56, 16:48] = 9
        return {"mask": logits}


@pytest.fixture
def chest(monkeypatch):
    monkeypatch.setattr(lung_crops, "load_networks", lambda folder, device: [Chest()])


def read_train(settings):
    return read_table(RunFolder.of(settings.place).task.table("train"))


def with_crops(table, settings, lungs):
    folder = RunFolder.of(settings.place).task
    runtime = single_runtime(settings.machine)
    return lung_crops.with_crops(table, folder, lungs, runtime, settings.machine.workers)


@pytest.mark.usefixtures("chest")
def test_crops_are_found_once(working, monkeypatch):
    settings = mask_settings(working, "crops")
    table = read_train(settings)
    first_rows = with_crops(table[:5], settings, "seen")
    assert len(first_rows) == 5
    assert np.abs(first_rows[CORNERS].to_numpy() - BOX).max() <= 0.5
    every_row = with_crops(table, settings, "seen")
    assert every_row[:5].equals(first_rows)
    monkeypatch.setattr(lung_crops, "load_networks", None)
    assert with_crops(table, settings, "seen").equals(every_row)


@pytest.mark.usefixtures("chest")
def test_boxes_of_other_networks_are_refused(working, monkeypatch):
    """The run that found them was trained again."""
    settings = mask_settings(working, "crops")
    table = read_train(settings)
    fold = RunFolder.of(settings.place).task.sibling("lungs").run("again").fold(0)
    write_json(fold.path / "config.json", {})
    torch.save({"weight": torch.zeros(3)}, fold.path / "epoch001.pt")
    first = with_crops(table, settings, "again")
    assert with_crops(table, settings, "again").equals(first)
    torch.save({"weight": torch.ones(3)}, fold.path / "epoch001.pt")
    sentence = r"crops-again.csv was made by other networks .*delete that file and train the runs"
    with pytest.raises(InputError, match=sentence):
        with_crops(table, settings, "again")
    (fold.path / "epoch001.pt").unlink()  # nobody can tell, or find more
    assert with_crops(table, settings, "again").equals(first)


def test_a_run_that_finds_no_lungs_stops_the_training(working, monkeypatch):
    monkeypatch.setattr(Chest, "forward", lambda self, images: {"mask": images[:, :1] * 0 - 9.0})
    monkeypatch.setattr(lung_crops, "load_networks", lambda folder, device: [Chest()])
    settings = mask_settings(working, "blind", lungs="blind", epochs=1)
    sentence = r"the run blind of the task lungs finds no lungs in 4 of 4 images.*leave out --lungs"
    with pytest.raises(InputError, match=sentence):
        train_folds(TINY_MASKS, settings)
    assert not RunFolder.of(settings.place).task.crops("blind").exists()


@pytest.mark.usefixtures("chest")
def test_a_few_images_without_lungs_are_no_reason_to_stop(working, monkeypatch):
    settings = mask_settings(working, "some")
    table = read_train(settings)
    with_crops(table[:6], settings, "some")
    monkeypatch.setattr(Chest, "forward", lambda self, images: {"mask": images[:, :1] * 0 - 9.0})
    boxes = with_crops(table, settings, "some")
    assert boxes["crop_fallback"].tolist() == [False] * 6 + [True] * (len(table) - 6)


@pytest.mark.usefixtures("chest")
def test_pictures_masks_and_boxes_are_cut(working):
    settings = mask_settings(working, "cut")
    table = with_crops(read_train(settings), settings, "cut")
    table = table.assign(boxes="[[20, 10, 50, 40]]", box_labels="[0]")
    images = RunFolder.of(settings.place).task.images
    dataset = XrayDataset(table, images, 96, SampleContent(mask="runs", crop=True))
    sample = dataset[(0, 1)]
    left, top, right, bottom = table[CORNERS].iloc[1]
    x_scale = 96 / (right - left)
    y_scale = 96 / (bottom - top)
    expected = [
        (20 - left) * x_scale,
        (10 - top) * y_scale,
        (50 - left) * x_scale,
        (40 - top) * y_scale,
    ]
    assert sample.boxes[0].tolist() == pytest.approx(expected, abs=1e-3)
    area = (min(50, right) - 20) * x_scale * (40 - 10) * y_scale
    assert float(sample.mask.sum()) == pytest.approx(area, rel=0.05)
    assert float((sample.image > 150).sum()) == pytest.approx(area, rel=0.05)


@pytest.mark.usefixtures("chest")
def test_predictions_return_to_the_whole_picture(working):
    settings = mask_settings(working, "lungs", lungs="whole", epochs=1)
    assert train_folds(TINY_MASKS, settings) == 0
    predict_run(TINY_MASKS, settings.replace(lungs=""))  # the run knows
    folder = first_fold(settings).valid_predictions("predictions")
    predictions = list(read_predictions(folder, MaskPrediction))
    assert len(predictions) == 4
    for prediction in predictions:
        picture = prediction.picture()
        assert picture[8:56, 16:48].min() > 0
        assert not picture[:, :13].any()
        assert not picture[:, 51:].any()
        assert not picture[:5].any()


def test_lungs_that_nobody_learned(working):
    settings = mask_settings(working, "untrained", lungs="nobody")
    sentence = r"holds no trained network: train it first with 03_train.py --task lungs"
    with pytest.raises(InputError, match=sentence):
        train_folds(TINY_MASKS, settings)
