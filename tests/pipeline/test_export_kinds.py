"""Masks and classes as files of step 06: edge_predict.py says of any image what step 04 says."""

import csv
import json
from types import SimpleNamespace

import cv2
import numpy as np
import onnx
import pandas as pd
import pytest
import torch
from steps import run_here
from untrained import SMALL, write_untrained_run
from xrays import png, xray

import edge_predict
from cxr.geometry.masks import encode_runs
from cxr.images.png import write_png
from cxr.images.read import read_image
from cxr.images.resize import resize
from cxr.methods.base import PLAIN
from cxr.methods.segmenter.rules import MaskRule, apply_rule
from cxr.run_folder import RunFolder
from cxr.steps.export import export
from cxr.steps.predict.predict_images import predict_images
from cxr.system.disk import read_json
from cxr.system.errors import InputError
from cxr.tasks import TASKS
from edge_predict import open_predictor

IMAGES = 8
# What random networks say lies about 5 % for each pixel.
MASK_RULE = {"head": 0.0, "top": 0.04, "area": 9, "bottom": 0.05, "total": 4, "component": 9}
SIZES = ((96, 128), (300, 211))  # of the images that are predicted


def write_tables(settings):
    """train.csv and stored pictures of eight X-rays, each with a rectangle that is its mask."""
    run = RunFolder.of(settings.place)
    rows = []
    for number in range(IMAGES):
        picture = xray(seed=number)
        stored = resize(picture, settings.data.size)
        path = png(run.task.path / "originals" / f"{number}.png", picture)
        write_png(run.task.image(f"x{number}"), stored, read_image(path)[1])
        row = {
            "image_id": f"x{number}",
            "study_id": f"s{number // 2}",
            "group": f"s{number // 2}",
            "fold": number // 2 % 2,
            "width": 96,
            "height": 128,
            "mask": encode_runs(picture == 250),
            "label": number // 2 % 4,
            "boxes": "[]",
            "box_labels": "[]",
        }
        rows.append(row)
    pd.DataFrame(rows).to_csv(run.task.table("train"), index=False)


def export_and_predict(settings, folder):
    """Files of step 06 of a run, and what step 04 and edge_predict.py say of two images.

    settings, run; fp32 and int8 (paths), report; step04 and edge (folders, with overlays), by_step
    and by_edge: the entries of predictions.json in the order of the images.
    """
    write_tables(settings)
    flags = ("--task", settings.place.task, "--preset", "small", "--run", "tiny", "--folds", "2")
    code, printed = run_here("06_export", *flags, "--working", settings.place.working)
    assert code == 0, printed
    run = RunFolder.of(settings.place)
    for number, size in enumerate(SIZES):
        png(folder / "in" / f"{number}.png", xray(*size, seed=100 + number))
    task = TASKS[settings.place.task]
    images = str(folder / "in")
    predict_images(task, settings.replace(images=(images,), out=folder / "step04", checkpoints=1))
    model = run.path / "merged.onnx"
    edge_predict.main([str(model), images, "--out", str(folder / "edge"), "--overlay"])
    return SimpleNamespace(
        settings=settings,
        run=run,
        flags=flags,
        fp32=model,
        int8=run.path / "merged.int8.onnx",
        report=read_json(run.path / "merged.json"),
        images=images,
        step04=folder / "step04",
        edge=folder / "edge",
        by_step=read_json(folder / "step04" / "predictions.json")["images"],
        by_edge=read_json(folder / "edge" / "predictions.json")["images"],
    )


@pytest.fixture(scope="module")
def masks(tmp_path_factory):
    folder = tmp_path_factory.mktemp("masks")
    params = MASK_RULE | {"rule": "first"}
    return export_and_predict(write_untrained_run(folder, "pneumothorax", params), folder)


@pytest.fixture(scope="module")
def classes(tmp_path_factory):
    """Without step 05, which fits nothing."""
    folder = tmp_path_factory.mktemp("classes")
    return export_and_predict(write_untrained_run(folder, "covid", tta="flips"), folder)


def test_a_file_gives_the_masks_of_step_04(masks):
    """In original pixels, but for those at the threshold; and the same image scores."""
    assert len(masks.by_edge) == len(SIZES)
    shares = []
    for entry, by_step, size in zip(masks.by_edge, masks.by_step, SIZES, strict=True):
        own = by_step["mask"]
        mask = cv2.imread(str(masks.edge / entry["mask"]["file"]), cv2.IMREAD_UNCHANGED)
        expected = cv2.imread(str(masks.step04 / own["file"]), cv2.IMREAD_GRAYSCALE)
        assert mask.shape == expected.shape == size[::-1]
        assert set(np.unique(mask)) <= {0, 255}
        assert np.count_nonzero(mask != expected) <= 0.002 * mask.size
        assert entry["mask"]["area"] == np.count_nonzero(mask)
        assert entry["mask"]["share"] == pytest.approx(own["share"], abs=0.002)
        assert entry["mask"]["score"] == pytest.approx(own["score"], abs=1e-5)
        assert entry["mask"]["label"] == own["finding"] == "Pneumothorax"
        shares.append(entry["mask"]["share"])
    assert min(shares) > 0.02 and max(shares) < 0.98, "empty and full masks prove nothing"


def test_tables_and_pictures_of_masks(masks):
    with (masks.edge / "predictions.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == [
        *("file", "width", "height", "label", "score", "area", "share", "mask"),
        "not_frontal_chest",
    ]
    assert [row["mask"] for row in rows] == ["masks/0.png.png", "masks/1.png.png"]
    assert [int(row["area"]) for row in rows] == [e["mask"]["area"] for e in masks.by_edge]
    overlay = cv2.imread(str(masks.edge / "overlays" / "1.png.png"))
    assert overlay.shape == (211, 300, 3)
    assert (overlay.max(-1) != overlay.min(-1)).any()


def test_masks_that_are_gone_are_written_again(masks, tmp_path, capsys):
    arguments = [str(masks.int8), masks.images, "--out", str(tmp_path)]
    edge_predict.main(arguments)
    path = tmp_path / "masks" / "1.png.png"
    content = path.read_bytes()
    path.unlink()
    capsys.readouterr()
    edge_predict.main(arguments)
    assert "1 of the 2 files were done before" in capsys.readouterr().out
    assert path.read_bytes() == content


def test_what_the_file_of_masks_says_of_itself(masks):
    settings = masks.report["settings"]
    assert settings["kind"] == "masks"
    assert settings["rule"] == MASK_RULE
    assert settings["classes"] == ["Pneumothorax"]
    assert settings["image_classes"] == []
    assert settings["flip"] and not settings["upside_down"]
    parity = masks.report["parity"]
    assert 0 < parity["mean_score"] < parity["score"] < 1e-4
    assert "pixels" not in parity


@pytest.mark.parametrize("number_format", ["fp32", "int8"])
def test_the_score_of_masks_is_that_on_validation_images(masks, number_format):
    """By the networks that never saw an image, and the rule of the run."""
    table = pd.read_csv(masks.run.task.table("train"))
    images = export.deal_images(masks.settings, table)
    scores = []
    for _, row in images.judged.iterrows():
        predictor = open_predictor(getattr(masks, number_format), models=[row["fold"]])
        picture = cv2.imread(str(masks.run.task.image(row["image_id"])), cv2.IMREAD_GRAYSCALE)
        mask = predictor(picture, (96, 128))["mask"].astype(bool)
        true = xray(seed=int(row["image_id"][1:])) == 250
        scores.append(2 * (mask & true).sum() / (mask.sum() + true.sum()))
    assert 0 < masks.report[number_format]["score"] < 1
    assert masks.report[number_format]["score"] == pytest.approx(np.mean(scores))


@pytest.mark.parametrize("kind", ["masks", "classes"])
def test_opencv_says_the_same(kind, request):
    files = request.getfixturevalue(kind)
    picture = xray(seed=3)
    expected = open_predictor(files.fp32, "onnxruntime").look(picture)
    outputs = open_predictor(files.fp32, "opencv").look(picture)
    if kind == "masks":
        assert outputs.label == pytest.approx(expected.label, abs=1e-5)
        np.testing.assert_allclose(outputs.mask, expected.mask, atol=1e-5)
    else:
        np.testing.assert_allclose(outputs, expected, atol=1e-5)


def test_the_rule_is_that_of_step_05():
    rng = np.random.default_rng(0)
    answers = set()
    for _ in range(60):
        small = rng.integers(0, 256, (9, 7), np.uint8)
        levels = cv2.resize(small, (70, 90), interpolation=cv2.INTER_CUBIC)
        rule = {
            "head": rng.uniform(0, 0.6),
            "top": rng.uniform(0.5, 1),
            "area": int(rng.integers(0, 2000)),
            "bottom": rng.uniform(0.3, 0.9),
            "total": int(rng.integers(0, 2000)),
            "component": int(rng.choice([0, 30, 200])),
        }
        score = rng.uniform(0.3, 1)
        mask = edge_predict.decide_mask(levels, score, rule)
        np.testing.assert_array_equal(mask, apply_rule(MaskRule(**rule), levels, score))
        answers.add(bool(mask.any()))
    assert answers == {False, True}


def test_a_file_gives_the_classes_of_step_04(classes):
    """Over four views and two networks."""
    assert classes.report["settings"]["upside_down"]
    for entry, by_step in zip(classes.by_edge, classes.by_step, strict=True):
        assert list(entry["image_classes"]) == list(by_step["probabilities"])
        for name, probability in by_step["probabilities"].items():
            assert entry["image_classes"][name] == pytest.approx(probability, abs=1e-5)
    with (classes.edge / "predictions.csv").open() as file:
        rows = list(csv.DictReader(file))
    names = [f"p_{name}" for name in classes.by_step[0]["probabilities"]]
    assert list(rows[0]) == ["file", "width", "height", *names, "not_frontal_chest"]
    assert len(rows) == len(SIZES)
    assert cv2.imread(str(classes.edge / "overlays" / "0.png.png")).shape == (128, 96, 3)
    assert not (classes.edge / "masks").exists()


def test_the_score_of_classes_is_that_of_studies(classes):
    report = classes.report
    assert report["score_name"] == "Mean AP of the four study classes"
    assert report["images"] == IMAGES - 2
    for number_format in ("fp32", "int8"):
        assert 0 < report[number_format]["score"] <= 1
    assert 0 <= report["int8"]["mean_score_error"] < 0.05
    assert report["parity"]["score"] < 1e-4


def test_fewer_views_on_request(classes):
    assert len(open_predictor(classes.fp32).flips) == 4
    assert open_predictor(classes.fp32, flip=True).flips == [(), (1,)]
    assert open_predictor(classes.fp32, flip=False).flips == [()]


def test_other_kinds_are_refused(classes, tmp_path):
    model = onnx.load(str(classes.int8))
    settings = json.loads(model.metadata_props[0].value) | {"kind": "sounds"}
    path = tmp_path / "sounds.onnx"
    onnx.helper.set_model_props(model, {"settings": json.dumps(settings)})
    onnx.save(model, str(path))
    with pytest.raises(edge_predict.Refused, match=r"gives sounds, and .* boxes, masks, classes"):
        open_predictor(path)


def test_without_a_label_head_the_highest_pixel_is_the_score_of_the_image():
    task = TASKS["lungs"]
    network = task.method.build_model(task.make_settings(SMALL), task.dataset.labels).eval()
    assert network.label_head is None
    images = torch.from_numpy(xray(64, 64))[None, None]
    with torch.inference_mode():
        mask, label = task.method.export.network_outputs(network, images)
        of_view = task.method.undo_view(network(images), PLAIN, network)
    assert torch.equal(mask[:, 0], of_view.mask)
    assert label.shape == (1, 1)
    assert torch.equal(label[:, 0], of_view.label)


def test_runs_on_lungs_are_refused():
    task = TASKS["pneumothorax"]
    with pytest.raises(InputError, match=r"cut to the lungs \(--lungs finder\)"):
        task.method.export.check(task.make_settings({"lungs": "finder"}))


def test_masks_need_step_05(tmp_path):
    settings = write_untrained_run(tmp_path, "pneumothorax")
    chosen = export.choose_checkpoints(TASKS["pneumothorax"], settings)
    with pytest.raises(InputError, match=r"run 05_postprocess\.py first"):
        export.describe_run(TASKS["pneumothorax"], settings, chosen)
