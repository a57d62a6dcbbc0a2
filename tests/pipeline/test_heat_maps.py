"""Grad-CAM and the shares of its maps, on a stand-in network whose only feature is brightness."""

import json
from types import SimpleNamespace

import cv2
import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from reports import image_table, report_input
from test_images import make_dataset, save
from tiny_task import TINY_TASK
from torch import nn
from untrained import write_untrained_run
from xrays import png, xray

from cxr.data.predictions import write_part
from cxr.images.isolated import Reader
from cxr.inference.checkpoint import save_state
from cxr.inference.heat_maps import compute_heat_maps
from cxr.inference.lung_crops import LungFinder
from cxr.inference.networks import BlendNetworks
from cxr.inference.predictor import Predictor
from cxr.methods.base import Labels
from cxr.methods.classifier.method import Classifier
from cxr.methods.classifier.records import ClassPrediction
from cxr.networks.network import Network
from cxr.run_folder import RunFolder
from cxr.steps.grad_cam import heat_maps
from cxr.steps.grad_cam.shares import energy_share_of_box, energy_share_of_mask
from cxr.steps.postprocess.report import write_report
from cxr.steps.predict.predict_images import predict_images
from cxr.system.disk import read_json
from cxr.system.errors import InputError
from cxr.tasks import TASKS, Task

SIDE = 64
CPU = torch.device("cpu")
CLASSES = ("Dark", "Bright", "Never")
BRIGHT_BOX = (8, 16, 24, 32)


class Bright(Network):
    """Class 1 where a part of the picture is bright, 2 never; it also draws masks."""

    def __init__(self, image_size):
        super().__init__(image_size, pretrained=False)
        self.gain = nn.Parameter(torch.ones(1))
        self.cam_layer = nn.Identity()

    def forward(self, images):
        features = self.cam_layer(F.relu(F.avg_pool2d(images / 255, 8) * self.gain - 0.5))
        strength = features.mean((2, 3))
        logits = [0 * strength + 1, 100 * strength, 0 * strength - 5]
        return {"label": torch.cat(logits, 1), "mask": features}


class WithoutMap(Network):
    """A network that reads no class from one map."""

    def __init__(self, image_size):
        super().__init__(image_size, pretrained=False)
        self.gain = nn.Parameter(torch.ones(1))


class BrightMethod(Classifier):
    network = Bright

    def build_model(self, settings, *_, **__):
        return self.network(settings.training.image_size)


def make_task():
    """A classification task whose data set is no more than names."""
    task = Task("brightness", "", "", "classifier", {})
    labels = Labels(("Opacity",), CLASSES)
    task.__dict__["dataset"] = SimpleNamespace(labels_of=lambda settings: labels)
    task.__dict__["method"] = BrightMethod()
    return task


class LeftHalf(nn.Module):
    """Says that the left half is lung."""

    image_size = 32

    def forward(self, images):
        logits = torch.where(torch.arange(32) < 16, 9.0, -9.0)
        return {"mask": logits.expand(len(images), 1, 32, 32)}


def picture(box=None):
    image = np.full((SIDE, SIDE), 20, np.uint8)
    if box:
        x1, y1, x2, y2 = box
        image[y1:y2, x1:x2] = 250
    return image


def test_the_map_lies_where_the_class_comes_from():
    images = torch.from_numpy(np.stack([picture(BRIGHT_BOX), picture()]))[:, None]
    network = Bright(SIDE)
    result = compute_heat_maps(network, images)
    maps = result.maps
    assert maps.shape == (2, SIDE, SIDE)
    assert maps.dtype == np.float32
    assert maps.min() >= 0
    assert maps.max() <= 1
    assert result.probabilities.argmax(1).tolist() == [1, 0]
    assert result.probabilities.sum(1) == pytest.approx(1)
    assert energy_share_of_box(maps[0], (4, 12, 28, 36)) > 0.99
    assert maps[1].max() == 0

    for parameter in network.parameters():
        parameter.requires_grad_(False)
    with torch.inference_mode(False), torch.autocast("cpu", torch.bfloat16):
        again = compute_heat_maps(network, images, [1, 1]).maps
    assert again[0] == pytest.approx(maps[0], abs=1e-6), (
        "frozen weights and AMP around it change nothing"
    )
    assert network.cam_layer._forward_hooks == {}


def test_energy_shares_by_hand():
    heat = np.array([[1.0, 0, 0], [0, 2, 1]])
    assert energy_share_of_box(heat, (1, 0, 3, 2)) == 0.75
    assert energy_share_of_mask(heat, heat == 2) == 0.5
    assert energy_share_of_mask(heat, np.zeros((2, 3))) == 0
    assert np.isnan(energy_share_of_box(0 * heat, (0, 0, 1, 1)))


def table_row(number, label):
    """A row of train.csv: an original of 128 x 64 pixels, with a box if it is bright."""
    boxes = [[16, 16, 48, 32]] if label else []
    study = min(number, 6) if label == 0 else number  # the dark images 6 and 8 are one study
    return {
        "image_id": f"i{number}",
        "study_id": f"s{study}",
        "fold": number // 4,
        "group": number,
        "width": 128,
        "height": 64,
        "label": label,
        "n_boxes": label,
        "mask_known": True,
        "boxes": json.dumps(boxes),
        "box_labels": json.dumps([0] * label),
    }


@pytest.fixture
def task():
    return make_task()


@pytest.fixture
def settings(tmp_path, monkeypatch, task):
    """Of a finished run: eight images of two folds, every second one bright with a box."""
    finder = LungFinder([LeftHalf()], CPU)
    monkeypatch.setattr(LungFinder, "of_run", classmethod(lambda *_: finder))
    values = {
        "task": "brightness",
        "run": "run",
        "working": tmp_path,
        "folds": 2,
        "image_size": SIDE,
        "size": SIDE,
        "device": "cpu",
        "workers": 0,
    }
    settings = task.make_settings(values)
    run = RunFolder.of(settings.place)
    run.task.images.mkdir(parents=True)
    rows = []
    for number in range(8):
        label = number % 2
        box = BRIGHT_BOX if label else None
        cv2.imwrite(str(run.task.image(f"i{number}")), picture(box))
        rows.append(table_row(number, label))
    pd.DataFrame(rows).to_csv(run.task.table("train"), index=False)
    for number in range(2):
        write_fold(run.fold(number), settings, [row for row in rows if row["fold"] == number])
    return settings


def write_fold(fold, settings, rows):
    """A finished fold and its out-of-fold predictions of these rows."""
    fold.write_config(settings.plain())
    state = {
        "task": "brightness",
        "config": settings.plain(),
        "model": Bright(SIDE).state_dict(),
        "done": True,
    }
    save_state(fold.epoch(1), state)
    save_state(fold.last, state)
    predictions = []
    for row in rows:
        probabilities = np.array([0.1, 0.8, 0.1] if row["label"] else [0.7, 0.2, 0.1])
        predictions.append(ClassPrediction(row["image_id"], 128, 64, probabilities))
    write_part(fold.valid_predictions("predictions"), 0, predictions)


def test_cases_of_each_true_and_predicted_class():
    table = pd.DataFrame(
        {"image_id": list("abcdef"), "study_id": list("ppqrst"), "label": [0, 0, 0, 0, 1, 1]}
    )
    chances = np.array([[0.9, 0.1], [0.2, 0.8], [0.8, 0.2], [0.7, 0.3], [0.6, 0.4], [0.1, 0.9]])
    chosen = heat_maps.choose_rows(table, chances, 2).set_index("image_id")
    assert chosen["predicted"].to_dict() == {"a": 0, "c": 0, "e": 0, "f": 1}, (
        "of a study the mean counts"
    )
    assert chosen["shown"].all()
    assert chosen.index[chosen["measured"]].tolist() == ["a", "f"]
    assert len(heat_maps.choose_rows(table, chances, 100)) == 6


def test_pictures_and_shares_of_a_run(task, settings, capsys):
    sheet = heat_maps.look(task, settings.replace(lungs_run="any"))
    content = read_json(sheet.with_name("grad_cam.json"))
    assert cv2.imread(str(sheet)) is not None
    shown = [row for row in content["images"] if row["shown"]]
    classes = {(row["label"], row["predicted"]) for row in shown}
    assert classes == {("Dark", "Dark"), ("Bright", "Bright")}
    assert len(shown) == 4
    for row in shown:
        assert sheet.with_name(f"{row['image_id']}.png").exists()

    bright = next(row for row in shown if row["label"] == "Bright")
    assert bright["shares"]["opacities"] > 0.7
    assert bright["shares"]["lung mask"] > 0.95
    assert bright["shares"]["area of opacities"] == pytest.approx(1 / 16)
    assert bright["probabilities"]["Bright"] > 0.8
    assert content["images_measured"] == 8
    assert content["means"]["area of lung mask"] == pytest.approx(0.5, abs=0.02)
    assert "lung mask" in capsys.readouterr().out

    text = heat_maps.compare_shares(settings.replace(compare=("run",)))
    assert "run" in text
    assert "opacities" in text
    with pytest.raises(InputError, match=r"run 07_grad_cam.py --run other first"):
        heat_maps.compare_shares(settings.replace(compare=("run", "other")))


def test_the_report_shows_them(task, settings):
    heat_maps.look(task, settings)
    run = RunFolder.of(settings.place)
    path = settings.place.working / "report.html"
    page = write_report(path, report_input(image_table(2), run=run))
    assert "Where the network looked" in page.read_text(encoding="utf-8")
    page = write_report(path, report_input(image_table(2)))
    assert "Where the network looked" not in page.read_text(encoding="utf-8")


def test_a_map_of_a_crop_is_put_back():
    crop = {"crop_x1": 64, "crop_y1": 0, "crop_x2": 128, "crop_y2": 64}
    row = {"image_id": "a", "width": 128, "height": 64, **crop}
    image = torch.from_numpy(picture((0, 0, 32, 64)))[None]
    explainer = heat_maps.Explainer(Bright(SIDE), CLASSES, None, CPU)
    explanation = explainer.explain(image, picture(), row)
    assert energy_share_of_box(explanation.case.heat, (32, 0, 52, 64)) > 0.95
    assert explanation.record["predicted"] == "Bright"
    assert explanation.record["label"] is None
    assert set(explanation.record["shares"].values()) == {None}


def test_any_images_with_the_lungs_cut_out(task, settings, tmp_path):
    scans = tmp_path / "scans"
    (scans / "deep").mkdir(parents=True)
    cv2.imwrite(str(scans / "deep" / "a.png"), picture(BRIGHT_BOX))
    (scans / "b.png").write_bytes(b"\x89PNG\r\n\x1a\n broken")
    out = tmp_path / "out"
    wanted = settings.replace(lungs_run="any", images=(str(scans),), out=out)
    sheet = heat_maps.look_at_files(task, wanted)
    assert cv2.imread(str(sheet)) is not None
    assert (out / "deep" / "a.png.png").exists()
    [row] = read_json(out / "grad_cam.json")["images"]
    assert row["predicted"] == "Bright"
    assert row["shares"]["opacities"] is None
    assert row["shares"]["lung box"] > 0.9


def test_what_is_no_frontal_chest_is_said_or_left_out(task, settings, tmp_path, capsys):
    scans = tmp_path / "scans"
    scans.mkdir()
    save(scans / "a.dcm", make_dataset(picture(BRIGHT_BOX)))
    save(scans / "lateral.dcm", make_dataset(picture(BRIGHT_BOX), ViewPosition="LL"))
    wanted = settings.replace(lungs_run="any", images=(str(scans),), out=tmp_path / "out")
    words = "lateral.dcm is no frontal chest X-ray: the view is LL, which is not frontal"
    for only_chest, count in ((False, 2), (True, 1)):
        heat_maps.look_at_files(task, wanted.replace(only_chest=only_chest))
        assert words in capsys.readouterr().out
        assert len(read_json(tmp_path / "out" / "grad_cam.json")["images"]) == count


def test_a_run_without_predictions(task, settings):
    with pytest.raises(InputError, match=r"run 04_predict.py"):
        heat_maps.look(task, settings.replace(predictions="others"))


def test_a_network_without_cam_layer(task, settings, monkeypatch):
    monkeypatch.setattr(BrightMethod, "network", WithoutMap)
    with pytest.raises(InputError, match="choose another --task"):
        heat_maps.look(task, settings)


# --------------------------------------------------------------------- step 04 --heat-maps


@pytest.fixture(scope="module")
def study_settings(tmp_path_factory):
    """Of an untrained classifier, with two X-rays of 96 x 128 and 70 x 50 pixels."""
    folder = tmp_path_factory.mktemp("looked")
    settings = write_untrained_run(folder, "covid")
    png(folder / "in" / "a b.png", xray())
    png(folder / "in" / "b.png", xray(70, 50, seed=1))
    return settings.replace(images=(str(folder / "in"),), out=folder / "out")


def read_images(out):
    """{name: record} of predictions.json."""
    content = read_json(out / "predictions.json")
    return {record["image"]: record for record in content["images"]}


def test_heat_maps_of_own_images(study_settings):
    """They are asked for later, and then stay, named by tables and page."""
    task = TASKS["covid"]
    out = study_settings.images.out
    page = predict_images(task, study_settings)
    assert not (out / "heat_maps").exists()
    assert "heat_map" not in read_images(out)["b.png"]
    assert "heat_map" not in pd.read_csv(out / "predictions.csv")

    predict_images(task, study_settings.replace(heat_maps=True))
    for name, record in read_images(out).items():
        probabilities = record["probabilities"]
        assert record["heat_map"]["class"] == max(probabilities, key=probabilities.get)
        shown = cv2.imread(str(out / record["heat_map"]["file"]))
        assert shown.shape == cv2.imread(str(out / "overlays" / f"{name}.png")).shape
        assert shown[..., 0].min() < shown[..., 0].max()
    files = pd.read_csv(out / "predictions.csv")["heat_map"]
    assert files.tolist() == ["heat_maps/a b.png.png", "heat_maps/b.png.png"]
    assert 'href="heat_maps/a%20b.png.png"' in page.read_text()

    before = (out / "heat_maps" / "b.png.png").read_bytes()
    predict_images(task, study_settings.replace(heat_maps=True))
    assert (out / "heat_maps" / "b.png.png").read_bytes() == before


def test_a_heat_map_of_an_image_that_was_replaced_goes(study_settings, tmp_path):
    task = TASKS["covid"]
    settings = study_settings.replace(images=(str(tmp_path / "in"),), out=tmp_path / "out")
    path = png(tmp_path / "in" / "a.png", xray())
    predict_images(task, settings.replace(heat_maps=True))
    assert (tmp_path / "out" / "heat_maps" / "a.png.png").exists()
    png(path, xray(64, 80, seed=3))
    predict_images(task, settings)
    assert not (tmp_path / "out" / "heat_maps" / "a.png.png").exists()


def test_the_map_of_several_networks_is_their_mean(study_settings):
    """Each as step 07 makes it."""
    predictor = Predictor(TASKS["covid"], study_settings)
    reader = Reader()
    [folder] = study_settings.images.images
    pictures = [reader.read(f"{folder}/{name}", predictor.sides) for name in ("a b.png", "b.png")]
    reader.close()
    results = predictor.predict(pictures)
    maps = predictor.heat_maps(pictures, results)
    assert [heat.shape for heat in maps] == [(64, 64), (64, 64)]
    images = torch.from_numpy(np.stack([picture.network for picture in pictures]))[:, None]
    classes = [predictor.image_classes.index(result.best_class) for result in results]
    models = predictor.networks.plain_models
    by_model = [compute_heat_maps(model, images, classes).maps for model in models]
    assert np.stack(maps) == pytest.approx(np.mean(by_model, axis=0), abs=1e-6)


def test_a_blend_weighs_the_maps_of_its_runs():
    members = []
    for value in (0.0, 1.0):
        maps = [np.full((2, 2), value), np.full((2, 2), 1 - value)]
        members.append(SimpleNamespace(heat_maps=lambda *_, maps=maps: maps))
    blend = SimpleNamespace(members=members, shares=np.array([0.25, 0.75]))
    first, second = BlendNetworks.heat_maps(blend, [], [])
    assert (first == 0.75).all()
    assert (second == 0.25).all()


def test_runs_of_boxes_have_no_heat_maps(tiny_run, tmp_path):
    settings = tiny_run.replace(images=(str(tmp_path),), out=tmp_path / "out", heat_maps=True)
    png(tmp_path / "a.png", xray())
    with pytest.raises(InputError, match="gives boxes and no classes alone"):
        predict_images(TINY_TASK, settings)
