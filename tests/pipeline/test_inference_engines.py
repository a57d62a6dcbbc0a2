"""OpenVINO in place of PyTorch: the same boxes, masks and classes, or a sentence why not."""

import sys

import numpy as np
import pytest
import torch
from test_predictor import read_pictures
from tiny_task import TINY_TASK
from untrained import write_untrained_run
from xrays import png, xray

import cxr
from cxr.inference import engines
from cxr.inference.engines import OpenVinoEngine, TorchEngine, choose_engine, find_difference
from cxr.inference.predictor import Predictor
from cxr.run_folder import RunFolder
from cxr.steps.predict.predict_images import choose_for_few
from cxr.system.errors import InputError
from cxr.system.runtime import Runtime
from cxr.tasks import TASKS

CPU = Runtime(torch.device("cpu"), "fp32")
MOST_PIXELS = 0.5  # as step 06 allows its files
MOST_SCORE = 1e-3


@pytest.fixture
def without_openvino(monkeypatch):
    monkeypatch.setitem(sys.modules, "openvino", None)


@pytest.fixture
def scans(tmp_path):
    """Two X-rays of 96 x 128 and 70 x 50 pixels."""
    return [
        png(tmp_path / "in" / "a.png", xray()),
        png(tmp_path / "in" / "b.png", xray(70, 50, seed=1)),
    ]


def results_of(task, settings, engine, scans):
    predictor = Predictor(task, settings.replace(engine=engine))
    assert isinstance(predictor.networks.engine, TorchEngine) == (engine == "torch")
    assert ("OpenVINO" in predictor.describe()) == (engine == "openvino")
    return predictor.predict(read_pictures(predictor, scans))


def test_openvino_gives_the_boxes_of_pytorch(tiny_run, scans):
    pytest.importorskip("openvino")
    settings = tiny_run.replace(tta="flip+scale", fold=0)
    expected = results_of(TINY_TASK, settings, "torch", scans)
    found = results_of(TINY_TASK, settings, "openvino", scans)
    for one, other in zip(found, expected, strict=True):
        assert len(one.detections) == len(other.detections) > 0
        np.testing.assert_allclose(one.detections.boxes, other.detections.boxes, atol=MOST_PIXELS)
        np.testing.assert_allclose(one.detections.scores, other.detections.scores, atol=MOST_SCORE)


@pytest.mark.parametrize("name", ["pneumothorax", "covid"])
def test_openvino_gives_the_masks_and_classes_of_pytorch(tmp_path, scans, name):
    pytest.importorskip("openvino")
    settings = write_untrained_run(tmp_path, name, tta="none").replace(fold=0)
    expected = results_of(TASKS[name], settings, "torch", scans)
    found = results_of(TASKS[name], settings, "openvino", scans)
    for one, other in zip(found, expected, strict=True):
        if name == "covid":
            values = list(one.probabilities.values())
            assert values == pytest.approx(list(other.probabilities.values()), abs=MOST_SCORE)
        else:
            assert np.abs(one.levels.astype(int) - other.levels).max() <= 1


class WrongEngine(OpenVinoEngine):
    """Says something else of every picture."""

    def __call__(self, network, images):
        outputs = super().__call__(network, images)
        return {name: -values for name, values in outputs.items()}


def test_an_engine_that_is_wrong_is_passed_over(tiny_run, monkeypatch, capsys):
    pytest.importorskip("openvino")
    monkeypatch.setattr(engines, "OpenVinoEngine", WrongEngine)
    predictor = Predictor(TINY_TASK, tiny_run.replace(engine="auto", fold=0))
    assert isinstance(predictor.networks.engine, TorchEngine)
    printed = capsys.readouterr().out
    assert "OpenVINO is passed over, PyTorch computes: " in printed
    assert "of the test picture" in printed
    with pytest.raises(InputError, match="--engine openvino cannot be used, since"):
        _ = Predictor(TINY_TASK, tiny_run.replace(engine="openvino", fold=0)).networks.engine


def test_an_engine_that_fails_is_passed_over(tiny_run, monkeypatch):
    pytest.importorskip("openvino")
    monkeypatch.setattr(engines, "write_graph", lambda *_: 1 / 0)
    models = Predictor(TINY_TASK, tiny_run.replace(fold=0)).networks.models
    chosen = choose_engine("auto", models, TINY_TASK.method, CPU)
    assert isinstance(chosen.engine, TorchEngine)
    assert "it cannot run these networks (ZeroDivisionError" in chosen.note


def test_without_openvino(tiny_run, without_openvino):
    models = Predictor(TINY_TASK, tiny_run.replace(fold=0)).networks.models
    chosen = choose_engine("auto", models, TINY_TASK.method, CPU)
    assert isinstance(chosen.engine, TorchEngine)
    assert chosen.note == ""
    with pytest.raises(
        InputError, match="not installed: pip install openvino; take --engine torch"
    ):
        choose_engine("openvino", models, TINY_TASK.method, CPU)


def test_only_on_a_cpu():
    gpu = Runtime(torch.device("cuda"), "bf16")
    chosen = choose_engine("auto", [], TINY_TASK.method, gpu)
    assert isinstance(chosen.engine, TorchEngine)
    with pytest.raises(InputError, match="the device is cuda"):
        choose_engine("openvino", [], TINY_TASK.method, gpu)


def test_few_images_do_not_pay_for_it(tiny_run):
    auto = tiny_run.replace(engine="auto")
    assert choose_for_few(auto, 15).machine.engine == "torch"
    assert choose_for_few(auto, 16).machine.engine == "auto"
    assert choose_for_few(auto.replace(engine="openvino"), 1).machine.engine == "openvino"


class Scripted:
    """An engine that says what it is told to."""

    hint = "f32"

    def __init__(self, outputs):
        self.outputs = outputs

    def __call__(self, network, images):
        return self.outputs


@pytest.mark.parametrize(
    "change, reason",
    [
        (lambda x: x + 1e-5, ""),
        (lambda x: x * torch.nan, "other values than numbers"),
        (lambda x: x[:, :-1], "not as many"),
        (lambda x: x.flip(1), "correlation"),
    ],
)
def test_the_self_test(change, reason):
    class Line(torch.nn.Module):
        image_size = 64

        def forward(self, images):
            return {"scores": torch.linspace(0, 1, 100)[None]}

    found = {"scores": change(torch.linspace(0, 1, 100)[None])}
    difference = find_difference(Scripted(found), Line())
    assert reason in difference
    assert bool(difference) == bool(reason)


def test_the_front_door_knows_the_engines(tmp_path):
    path = RunFolder.of(write_untrained_run(tmp_path, "covid").place).path
    run = cxr.open_run(path, engine="torch", device="cpu")
    assert isinstance(run.predictor.networks.engine, TorchEngine)
    assert cxr.open_run(path).predictor.settings.machine.engine == "torch"  # of the run
