"""Grad-CAM and the shares of its maps, on a stand-in network whose only feature is brightness."""

import json
from dataclasses import replace

import cv2
import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from reports import image_table, report_input
from torch import nn

from cxr.config import Config
from cxr.data.predictions import write_part
from cxr.inference.checkpoint import plain_config, save_state
from cxr.methods.detector.records import Candidates
from cxr.networks.network import Network
from cxr.run_folder import RunFolder
from cxr.steps.grad_cam import heat_maps
from cxr.steps.grad_cam.grad_cam import energy_share
from cxr.steps.grad_cam.grad_cam import heat_maps as cam_of
from cxr.steps.postprocess.report import write_report
from cxr.system.disk import read_json, write_json
from cxr.system.errors import InputError

SIDE = 64


class Bright(Network):
    """Class 1 where a part of the picture is bright, 2 never; like a classifier that also draws masks."""

    def __init__(self, image_size):
        super().__init__(image_size, pretrained=False)
        self.scale = nn.Parameter(torch.ones(1))
        self.cam_layer = nn.Identity()

    def forward(self, images):
        features = self.cam_layer(F.relu(F.avg_pool2d(images / 255, 8) * self.scale - 0.5))
        strength = features.mean((2, 3))
        return {
            "label": torch.cat([0 * strength + 1, 100 * strength, 0 * strength - 5], 1),
            "mask": features,
        }


class Brightness:
    name, class_names, kind = "brightness", ("Dark", "Bright", "Never"), Candidates

    def build_model(self, config, load_weights=True):
        return Bright(config.image_size)


class Lungs(nn.Module):
    """Says that the left half is lung."""

    image_size = 32

    def forward(self, images):
        return {
            "mask": torch.where(torch.arange(32) < 16, 9.0, -9.0).expand(len(images), 1, 32, 32)
        }


def picture(box=None):
    image = np.full((SIDE, SIDE), 20, np.uint8)
    if box:
        image[box[1] : box[3], box[0] : box[2]] = 250
    return image


def test_the_map_lies_where_the_class_comes_from():
    images = torch.from_numpy(np.stack([picture((8, 16, 24, 32)), picture()]))[:, None]
    network = Bright(SIDE)
    maps, probabilities = cam_of(network, images)
    assert (
        maps.shape == (2, SIDE, SIDE)
        and maps.dtype == np.float32
        and 0 <= maps.min()
        and maps.max() <= 1
    )
    assert probabilities.argmax(1).tolist() == [1, 0] and probabilities.sum(1) == pytest.approx(1)
    assert energy_share(maps[0], (4, 12, 28, 36)) > 0.99 and maps[1].max() == 0
    for parameter in network.parameters():
        parameter.requires_grad_(False)
    with torch.inference_mode(False), torch.autocast("cpu", torch.bfloat16):
        again, _ = cam_of(network, images, [1, 1])
    assert again[0] == pytest.approx(maps[0], abs=1e-6), (
        "frozen weights and AMP around it change nothing"
    )
    assert network.cam_layer._forward_hooks == {}


def test_energy_share_by_hand():
    heat = np.array([[1.0, 0, 0], [0, 2, 1]])
    assert energy_share(heat, (1, 0, 3, 2)) == 0.75 and energy_share(heat, heat == 2) == 0.5
    assert energy_share(heat, np.zeros((2, 3))) == 0 and np.isnan(
        energy_share(0 * heat, (0, 0, 1, 1))
    )


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Configuration of a finished run: eight images of two folds, the bright ones with a box, a study of two images."""
    monkeypatch.setattr(heat_maps, "load_networks", lambda folder, device: [Lungs()])
    config = Config(
        task="brightness",
        run="run",
        working=tmp_path,
        folds=2,
        image_size=SIDE,
        size=SIDE,
        device="cpu",
        workers=0,
    )
    (config.task_dir / "images").mkdir(parents=True)
    rows = []
    for k in range(8):
        box = (8, 16, 24, 32) if k % 2 else None
        cv2.imwrite(str(config.task_dir / "images" / f"i{k}.png"), picture(box))
        rows.append(
            {
                "image_id": f"i{k}",
                "study_id": f"s{min(k, 6) if k % 2 == 0 else k}",
                "fold": k // 4,
                "group": k,
                "width": 128,
                "height": 64,
                "label": k % 2,
                "n_boxes": k % 2,
                "mask_known": True,
                "boxes": json.dumps([[16, 16, 48, 32]] if box else []),
                "box_labels": json.dumps([0] * (k % 2)),
            }
        )
    pd.DataFrame(rows).to_csv(config.task_dir / "train.csv", index=False)
    for fold in range(2):
        folder = config.fold_dir(fold)
        write_json(folder / "config.json", plain_config(config))
        state = {
            "task": "brightness",
            "config": plain_config(config),
            "model": Bright(SIDE).state_dict(),
            "done": True,
        }
        save_state(folder / "epoch001.pt", state)
        save_state(folder / "last.pt", state)
        empty = [np.zeros((0, 2))] * 3
        write_part(
            folder / "valid_predictions",
            0,
            [
                Candidates(
                    row["image_id"],
                    128,
                    64,
                    np.array([0.1, 0.8, 0.1] if row["label"] else [0.7, 0.2, 0.1]),
                    *empty,
                    np.zeros(0),
                    np.zeros(0, int),
                )
                for row in rows
                if row["fold"] == fold
            ],
        )
    return config


def test_cases_of_each_true_and_predicted_class(run):
    table = pd.DataFrame(
        {"image_id": list("abcdef"), "study_id": list("ppqrst"), "label": [0, 0, 0, 0, 1, 1]}
    )
    chances = np.array([[0.9, 0.1], [0.2, 0.8], [0.8, 0.2], [0.7, 0.3], [0.6, 0.4], [0.1, 0.9]])
    chosen = heat_maps.choose(table, chances, 2).set_index("image_id")
    assert chosen["predicted"].to_dict() == {"a": 0, "c": 0, "e": 0, "f": 1}, (
        "of a study the mean counts"
    )
    assert chosen["shown"].all() and chosen.index[chosen["measured"]].tolist() == ["a", "f"]
    assert len(heat_maps.choose(table, chances, 100)) == 6


def test_pictures_and_shares_of_a_run(run, capsys):
    sheet = heat_maps.look(Brightness(), replace(run, lungs_run="any"))
    content = read_json(sheet.with_name("grad_cam.json"))
    assert cv2.imread(str(sheet)) is not None
    shown = [row for row in content["images"] if row["shown"]]
    assert {(row["label"], row["predicted"]) for row in shown} == {
        ("Dark", "Dark"),
        ("Bright", "Bright"),
    }
    assert len(shown) == 4 and all(
        sheet.with_name(f"{row['image_id']}.png").exists() for row in shown
    )
    bright = next(row for row in shown if row["label"] == "Bright")
    assert bright["shares"]["opacities"] > 0.7 and bright["shares"]["lung mask"] > 0.95
    assert (
        bright["shares"]["area of opacities"] == pytest.approx(1 / 16)
        and bright["probabilities"]["Bright"] > 0.8
    )
    assert content["images_measured"] == 8 and content["means"][
        "area of lung mask"
    ] == pytest.approx(0.5, abs=0.02)
    assert "lung mask" in capsys.readouterr().out
    text = heat_maps.compare_shares(replace(run, compare=("run",)))
    assert "run" in text and "opacities" in text
    with pytest.raises(InputError, match="run 07_grad_cam.py --run other first"):
        heat_maps.compare_shares(replace(run, compare=("run", "other")))
    page = write_report(
        run.working / "report.html", report_input(image_table(2), run=RunFolder(run.run_dir))
    )
    assert "Where the network looked" in page.read_text(encoding="utf-8")
    page = write_report(run.working / "report.html", report_input(image_table(2)))
    assert "Where the network looked" not in page.read_text(encoding="utf-8")


def test_a_map_of_a_crop_is_put_back(run):
    row = {
        "image_id": "a",
        "width": 128,
        "height": 64,
        "crop_x1": 64,
        "crop_y1": 0,
        "crop_x2": 128,
        "crop_y2": 64,
    }
    image = torch.from_numpy(picture((0, 0, 32, 64)))[None]
    record, case = heat_maps.look_at(
        Brightness(), Bright(SIDE), image, picture(), row, None, [], torch.device("cpu")
    )
    assert energy_share(case.heat, (32, 0, 52, 64)) > 0.95 and record["predicted"] == "Bright"
    assert set(record["shares"].values()) == {None} and record["label"] is None


def test_any_images_with_the_lungs_cut_out(run, tmp_path):
    (tmp_path / "scans" / "deep").mkdir(parents=True)
    cv2.imwrite(str(tmp_path / "scans" / "deep" / "a.png"), picture((8, 16, 24, 32)))
    (tmp_path / "scans" / "b.png").write_bytes(b"\x89PNG\r\n\x1a\n broken")
    config = replace(run, lungs_run="any", images=(str(tmp_path / "scans"),), out=tmp_path / "out")
    sheet = heat_maps.look_at_files(Brightness(), config)
    assert cv2.imread(str(sheet)) is not None and (tmp_path / "out" / "deep" / "a.png.png").exists()
    [row] = read_json(tmp_path / "out" / "grad_cam.json")["images"]
    assert (
        row["predicted"] == "Bright"
        and row["shares"]["opacities"] is None
        and row["shares"]["lung box"] > 0.9
    )


def test_a_network_without_cam_layer_and_a_run_without_predictions(run, monkeypatch):
    with pytest.raises(InputError, match="run 04_predict.py"):
        heat_maps.look(Brightness(), replace(run, predictions="others"))
    without = Bright(SIDE)
    without.cam_layer = None
    monkeypatch.setattr(Brightness, "build_model", lambda *_, **__: without)
    with pytest.raises(InputError, match="choose another --task"):
        heat_maps.look(Brightness(), run)
