"""What the pneumothorax winners did in training beyond a network and a loss, on a network of one layer."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from cxr.config import STOPPED, Config
from cxr.data.dataset import ResumableSampler, XrayDataset, read_table
from cxr.geometry.masks import encode_runs
from cxr.inference import lung_crops
from cxr.inference.checkpoint import load_state
from cxr.inference.predictions import read_predictions
from cxr.inference.run import predict_run
from cxr.methods.segmenter.mean_teacher import (
    MeanTeacher,
    RepeatSampler,
    consistency,
    ramp,
    teacher_decay,
)
from cxr.methods.segmenter.method import MaskTask
from cxr.methods.segmenter.records import MaskPrediction
from cxr.networks.network import Network
from cxr.steps.train.engine import train_folds
from cxr.steps.train.schedules import after_epoch, after_update, make_scheduler
from cxr.steps.train.state import Training
from cxr.system.errors import InputError

SIDE, CPU = 64, torch.device("cpu")


class TinyNet(Network):
    def __init__(self):
        super().__init__(SIDE, pretrained=False)
        self.encoder = nn.Sequential(nn.Conv2d(1, 4, 5, padding=2), nn.BatchNorm2d(4), nn.ReLU())
        self.mask, self.label = nn.Conv2d(4, 1, 1), nn.Linear(4, 1)

    def forward(self, images):
        x = self.encoder(images / 128 - 1)
        return {"mask": self.mask(x), "label": self.label(x.mean((2, 3)))[:, 0]}


class TinyMasks(MaskTask):
    name = "tinymasks"

    def build_model(self, config, load_weights=True):
        return TinyNet()


@pytest.fixture(scope="module")
def working(tmp_path_factory):
    """Eight training images, half with a bright rectangle and its mask, and a folder of four without labels."""
    root, rng, rows = tmp_path_factory.mktemp("masks"), np.random.default_rng(0), []
    (root / "tinymasks" / "images").mkdir(parents=True)
    (root / "plain").mkdir()
    for i in range(12):
        image, mask = (
            rng.integers(0, 60, (SIDE, SIDE), dtype=np.uint8),
            np.zeros((SIDE, SIDE), np.uint8),
        )
        if i % 2:
            image[10:40, 20:50], mask[10:40, 20:50] = 250, 1
        folder = root / "tinymasks" / "images" if i < 8 else root / "plain"
        cv2.imwrite(str(folder / f"x{i}.png"), image)
        rows.append(
            {
                "image_id": f"x{i}",
                "group": f"x{i}",
                "fold": i // 2 % 2,
                "width": SIDE,
                "height": SIDE,
                "boxes": "[]",
                "box_labels": "[]",
                "mask": encode_runs(mask),
                "label": i % 2,
            }
        )
    pd.DataFrame(rows[:8]).to_csv(root / "tinymasks" / "train.csv", index=False)
    pd.DataFrame(rows[:2]).assign(mask="").to_csv(root / "tinymasks" / "test.csv", index=False)
    return root


def settings(working, request_name, **changes):
    base = Config(
        task="tinymasks",
        run=request_name,
        working=working,
        folds=2,
        fold=0,
        workers=0,
        weights="none",
        image_size=SIDE,
        epochs=2,
        lr=1e-2,
        clip=1.0,
        batch_size=2,
        device="cpu",
        precision="fp32",
        augmentation="fifth",
        schedule="constant",
        mask_loss="bce=1,label=1",
    )
    return replace(base, **changes)


def rates(epochs, metrics=None, **changes):
    """Learning rate of each epoch."""
    config = replace(Config(), epochs=epochs, **changes)
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], config.lr)
    scheduler, found = make_scheduler(optimizer, config, 10 * epochs), []
    for epoch in range(epochs):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        after_update(scheduler, config)
        after_epoch(
            scheduler,
            config,
            {"metric": (metrics or [0] * epochs)[epoch], "valid_loss": 1.0},
            "loss",
        )
    return found


def test_restarts_of_the_second():
    found = rates(34, schedule="restarts", cycle=5, lr=5e-4, lr_min=1e-5)
    assert found[:5] == pytest.approx([5e-4, 4.5e-4, 3.3e-4, 1.8e-4, 5.7e-5], rel=0.02)
    assert found[5:10] == pytest.approx(found[:5]) == found[25:30]
    assert found[30:] == pytest.approx([1e-5, 1e-5, 5e-6, 5e-6])


def test_waves_fall_and_rise():
    found = rates(60, schedule="waves", cycle=8, lr=7.5e-5, lr_min=1e-6)
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], 7.5e-5)
    scheduler, expected = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 8, 1e-6), []
    for _ in range(60):
        expected.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    assert found == pytest.approx(expected, rel=1e-6) and found[8] == pytest.approx(1e-6)


def test_the_rate_falls_when_the_metric_stands_still():
    found = rates(9, [0.1, 0.2, 0.2, 0.2, 0.2, 0.3, 0.4, 0.5, 0.6], schedule="metric", lr=1e-4)
    assert found == pytest.approx([1e-4] * 5 + [1e-5] * 4)


def test_constant():
    assert rates(3, schedule="constant", lr=3e-4) == pytest.approx([3e-4] * 3)


def test_the_average_of_the_third_is_a_copy_before_its_epoch():
    state = SimpleNamespace(config=replace(Config(), ema=0.99, ema_from=7), epoch=5)
    assert Training.decay(state, 5000) == 0
    state.epoch = 6
    assert Training.decay(state, 5000) == 0.99


def test_average_from_an_epoch_on(working):
    config = settings(working, "ema", ema=0.5, ema_from=2, epochs=2, keep=2)
    assert train_folds(TinyMasks(), config) == 0
    last = load_state(config.fold_dir(0) / "last.pt")
    kept = [
        load_state(config.fold_dir(0) / f"epoch00{epoch}.pt")["model"]["mask.weight"]
        for epoch in (1, 2)
    ]
    assert not torch.equal(kept[1], last["model"]["mask.weight"]) and not torch.equal(*kept)
    copy = settings(working, "copy", ema=0.5, ema_from=3)
    assert train_folds(TinyMasks(), copy) == 0
    last = load_state(copy.fold_dir(0) / "last.pt")
    kept = load_state(copy.fold_dir(0) / "epoch002.pt")["model"]
    assert all(torch.equal(value, last["model"][name]) for name, value in kept.items())


@pytest.mark.parametrize(
    "moment, weight",
    [
        (0, 0.001),
        (4.9, 0.001),
        (5, 0.0621),
        (10, 0.2167),
        (15, 0.5730),
        (20, 1.1475),
        (25, 1.7406),
        (30, 2.0),
        (44, 2.0),
    ],
)
def test_weight_of_the_consistency_of_the_fifth(moment, weight):
    assert 2 * ramp(moment) == pytest.approx(weight, abs=1e-4)


@pytest.mark.parametrize(
    "moment, updates, decay",
    [
        (0, 0, 0),
        (0, 1, 0.5),
        (0, 99, 0.5),
        (6, 999, 0.9),
        (15, 9999, 0.99),
        (15, 9, 0.9),
        (30, 99999, 0.999),
    ],
)
def test_decay_of_the_teacher(moment, updates, decay):
    assert teacher_decay(moment, updates) == pytest.approx(decay)


def test_consistency_by_hand():
    student = {"mask": torch.zeros(2, 1, 2, 2), "label": torch.zeros(2)}
    teacher = {"mask": torch.full((2, 1, 2, 2), 50.0), "label": torch.full((2,), -50.0)}
    assert float(consistency(student, teacher)) == pytest.approx(0.25 + 0.001 * 0.25)
    assert float(
        consistency({"mask": student["mask"]}, {"mask": teacher["mask"]})
    ) == pytest.approx(0.25)


def test_pictures_without_labels_come_in_step_with_the_others():
    labelled = ResumableSampler(10, 2, 3, True)
    sampler = RepeatSampler(3, labelled, 4)
    keys = list(sampler)
    assert sampler.batches() == labelled.batches() == 5 and len(keys) == 20 == len(set(keys))
    sampler.first_batch = 2
    assert list(sampler) == keys[8:] and {key[-1] for key in keys} <= {0, 1, 2}
    parts = [RepeatSampler(3, ResumableSampler(10, 2, 3, True, rank, 2), 4) for rank in (0, 1)]
    assert [part.batches() for part in parts] == [2, 2] and list(parts[0]) != list(parts[1])


def taught(working, name, **changes):
    return settings(working, name, unlabelled=str(working / "plain"), unlabelled_batch=2, **changes)


def test_the_teacher_teaches_and_the_student_is_kept(working):
    config = taught(working, "taught", consistency=1e4)
    assert train_folds(TinyMasks(), config) == 0
    log = pd.read_csv(config.fold_dir(0) / "log.csv")
    assert (log["train_consistency"] > 0).all() and "valid_consistency" not in log
    last, kept = (load_state(config.fold_dir(0) / name) for name in ("last.pt", "epoch002.pt"))
    assert torch.equal(last["model"]["mask.weight"], kept["model"]["mask.weight"])
    assert not torch.equal(last["average"]["module.mask.weight"], kept["model"]["mask.weight"])
    alone = settings(working, "alone")
    assert train_folds(TinyMasks(), alone) == 0
    assert not torch.equal(
        load_state(alone.fold_dir(0) / "epoch002.pt")["model"]["mask.weight"],
        kept["model"]["mask.weight"],
    )


def test_a_taught_run_that_is_stopped_ends_the_same(working):
    whole, stopped = taught(working, "whole"), taught(working, "stopped", max_hours=1e-9)
    assert train_folds(TinyMasks(), whole) == 0
    for _ in range(20):
        status = train_folds(TinyMasks(), stopped)
        if status != STOPPED:
            break
    assert status == 0
    a, b = (load_state(config.fold_dir(0) / "last.pt") for config in (whole, stopped))
    for part in ("model", "average"):
        assert all(torch.equal(value, b[part][name]) for name, value in a[part].items())


def test_the_teacher_leaves_the_students_statistics_alone(working):
    config = taught(working, "statistics")
    torch.manual_seed(0)
    state = Training(TinyMasks(), config, 0, CPU, "fp32", 2, False)
    teacher = MeanTeacher(state, ResumableSampler(4, 2, 0, True))
    teacher.start()
    before = state.model.encoder[1].running_mean.clone()
    teacher.terms()["consistency"].backward()
    assert (
        torch.equal(state.model.encoder[1].running_mean, before) and state.model.encoder[1].training
    )
    assert all(p.grad is None for p in state.average.module.parameters())


def test_a_folder_without_pictures(working, tmp_path):
    with pytest.raises(InputError, match="holds no PNG pictures"):
        train_folds(TinyMasks(), replace(taught(working, "none"), unlabelled=str(tmp_path)))


def test_starting_from_another_run(working):
    first = settings(working, "first", keep=1)
    assert train_folds(TinyMasks(), first) == 0
    second = settings(working, "second", start="first", lr=1e-12, epochs=1, image_size=96)
    assert train_folds(TinyMasks(), second) == 0
    old, new = (
        load_state(c.fold_dir(0) / name)["model"]["mask.weight"]
        for c, name in ((first, "epoch002.pt"), (second, "epoch001.pt"))
    )
    assert torch.allclose(old, new, atol=1e-8)
    file = first.fold_dir(0) / "epoch002.pt"
    third = settings(working, "third", start=str(file), lr=1e-12, epochs=1)
    assert train_folds(TinyMasks(), third) == 0
    assert torch.allclose(
        load_state(third.fold_dir(0) / "epoch001.pt")["model"]["mask.weight"], old, atol=1e-8
    )
    with pytest.raises(
        InputError, match="epoch002.pt has learned the validation images of fold 1: give --fold 0"
    ):
        train_folds(TinyMasks(), replace(third, run="leak", fold=1))
    shutil.copy(file, working / "elsewhere.pt")  # perhaps of other images, which nobody can know
    assert (
        train_folds(
            TinyMasks(), replace(third, run="other", start=str(working / "elsewhere.pt"), fold=1)
        )
        == 0
    )


def test_starts_that_do_not_exist_or_fit(working):
    with pytest.raises(
        InputError,
        match="--start nobody is neither a file nor a run with checkpoints in .*: train that",
    ):
        train_folds(TinyMasks(), settings(working, "lost", start="nobody"))
    with pytest.raises(InputError, match="--start .*gone.pt is neither a file nor a run"):
        train_folds(TinyMasks(), settings(working, "gone", start=str(working / "gone.pt")))
    torch.save({"x": 1}, working / "other.pt")
    with pytest.raises(InputError, match="other.pt is no checkpoint of step 03"):
        train_folds(TinyMasks(), settings(working, "other", start=str(working / "other.pt")))
    folder = working / "tinymasks" / "odd" / "fold0"
    folder.mkdir(parents=True)
    torch.save({"model": {"x": torch.zeros(1)}}, folder / "epoch001.pt")
    with pytest.raises(InputError, match="fits another network"):
        train_folds(TinyMasks(), settings(working, "misfit", start="odd"))


def test_predicted_masks_become_training_images(working):
    """A fold's student learns from what that fold's model says of the test images, which it is asked for at once."""
    teacher = settings(working, "guess", epochs=30, batch_size=4, folds=2)
    assert train_folds(TinyMasks(), teacher) == 0
    config = settings(
        working, "pseudo", pseudo="guess", sampling="share", positive_share=0.5, pseudo_ratio=1.0
    )
    assert train_folds(TinyMasks(), config) == 0
    assert json.loads((config.fold_dir(0) / "config.json").read_text())["pseudo"] == "guess"
    settings_of = json.loads(
        (teacher.fold_dir(0) / "test_predictions" / "settings.json").read_text()
    )
    assert list(settings_of["checkpoints"]) == [
        "fold0/epoch028.pt",
        "fold0/epoch029.pt",
        "fold0/epoch030.pt",
    ]


def test_pseudo_labels_of_a_run_that_is_not_there(working):
    with pytest.raises(
        InputError, match="nobody/fold0 does not exist: train the fold with 03_train.py first"
    ):
        train_folds(TinyMasks(), settings(working, "absent", pseudo="nobody"))


def test_the_share_of_positives_is_logged(working):
    config = settings(working, "share", sampling="share", positive_share=0.5, epochs=1)
    assert train_folds(TinyMasks(), config) == 0
    assert pd.read_csv(Path(config.fold_dir(0)) / "log.csv")["positive_share"].tolist() == [0.5]


class Chest(nn.Module):
    """Sees lungs in a fixed place, 32 x 48 of 64 pixels."""

    image_size = SIDE

    def forward(self, images):
        logits = torch.full((len(images), 1, SIDE, SIDE), -9.0)
        logits[:, :, 8:56, 16:48] = 9
        return {"mask": logits}


BOX = [16 - 2.5, 8 - 2.5, 48 + 2.5, 56 + 2.5]  # with the margin of 40 of 1024 pixels


@pytest.fixture
def chest(monkeypatch):
    monkeypatch.setattr(lung_crops, "load_networks", lambda folder, device: [Chest()])


def test_crops_are_found_once(working, chest, monkeypatch):
    config, table = settings(working, "crops"), read_table(working / "tinymasks" / "train.csv")
    found = lung_crops.with_crops(table[:5], config, "seen", CPU)
    assert np.abs(found[lung_crops.CORNERS].to_numpy() - BOX).max() <= 0.5 and len(found) == 5
    more = lung_crops.with_crops(table, config, "seen", CPU)
    monkeypatch.setattr(lung_crops, "load_networks", None)
    assert more.equals(lung_crops.with_crops(table, config, "seen", CPU)) and more[:5].equals(found)


def test_pictures_masks_and_boxes_are_cut(working, chest):
    table = lung_crops.with_crops(
        read_table(working / "tinymasks" / "train.csv"), settings(working, "cut"), "cut", CPU
    )
    table["boxes"], table["box_labels"] = "[[20, 10, 50, 40]]", "[0]"
    sample = XrayDataset(table, working / "tinymasks" / "images", 96)[(0, 1)]
    left, top, right, bottom = table[lung_crops.CORNERS].iloc[1]
    wide, high = 96 / (right - left), 96 / (bottom - top)
    expected = [(20 - left) * wide, (10 - top) * high, (50 - left) * wide, (40 - top) * high]
    assert sample["boxes"][0].tolist() == pytest.approx(expected, abs=1e-3)
    area = (min(50, right) - 20) * wide * (40 - 10) * high
    assert float(sample["mask"].sum()) == pytest.approx(area, rel=0.05)
    assert float((sample["image"] > 150).sum()) == pytest.approx(area, rel=0.05)


def test_predictions_return_to_the_whole_picture(working, chest):
    config = settings(working, "lungs", lungs="whole", epochs=1)
    assert train_folds(TinyMasks(), config) == 0
    predict_run(TinyMasks(), replace(config, lungs=""))  # the run knows
    found = list(read_predictions(config.fold_dir(0) / "valid_predictions", MaskPrediction))
    assert len(found) == 4
    for picture in (prediction.picture() for prediction in found):
        assert picture[8:56, 16:48].min() > 0
        assert not picture[:, :13].any() and not picture[:, 51:].any() and not picture[:5].any()


def test_lungs_that_nobody_learned(working):
    with pytest.raises(
        InputError, match="holds no trained network: train it first with 03_train.py --task lungs"
    ):
        train_folds(TinyMasks(), settings(working, "untrained", lungs="nobody"))
