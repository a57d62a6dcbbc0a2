"""Step 04 on any folder of X-rays: what stands in the tables, on the page and on disk."""

import csv
import itertools
import json
import os
import subprocess
import sys
from dataclasses import replace

import cv2
import numpy as np
import pandas as pd
import pytest
from steps import ROOT, link_tree, run_here
from test_images import ODD, make_dataset, save
from tiny_task import TINY_TASK
from xrays import READABLE, UNREADABLE, png, write_messy_folder, xray

from cxr.data.predictions import read_predictions
from cxr.inference.networks import RunNetworks
from cxr.inference.predictor import Predictor
from cxr.methods.detector.records import Candidates, Params, detect
from cxr.run_folder import RunFolder
from cxr.steps.predict import predict_images as flow
from cxr.steps.predict.out_folder import alone_in
from cxr.steps.predict.predict_images import predict_images
from cxr.system.disk import write_json
from cxr.system.errors import InputError
from cxr.tasks import TASKS

CORNERS = ["x1", "y1", "x2", "y2"]


@pytest.fixture
def messy(tmp_path):
    return write_messy_folder(tmp_path / "messy folder")


@pytest.fixture
def settings(tiny_run, tmp_path):
    return tiny_run.replace(out=tmp_path / "out")


def predict(settings, *images):
    """Path of the page of these images."""
    return predict_images(TINY_TASK, settings.replace(images=tuple(map(str, images))))


def read_predictions_csv(settings):
    return pd.read_csv(settings.images.out / "predictions.csv", dtype={"image": str})


def read_images(out):
    return json.loads((out / "predictions.json").read_text())["images"]


def corners_of(boxes):
    return np.array([[box[name] for name in CORNERS] for box in boxes]).reshape(-1, 4)


def test_a_messy_folder(settings, messy, capsys):
    out = settings.images.out
    page = predict(settings, messy)
    table = read_predictions_csv(settings)
    images = read_images(out)
    assert set(table.image) == READABLE
    assert {image["image"] for image in images} == READABLE
    assert table.columns.tolist() == [
        *("image", "path", "width", "height", "finding", "score", "above_threshold", *CORNERS),
        *("probability of none", "probability of other", "probability of box"),
        "not_frontal_chest",
    ]
    boxes = table.dropna(subset="score")
    assert (boxes.x1 >= 0).all()
    assert (boxes.y1 >= 0).all()
    assert (boxes.x2 <= boxes.width).all()
    assert (boxes.y2 <= boxes.height).all()
    assert ((boxes.score > 0.12) == boxes.above_threshold.astype(bool)).all()
    assert boxes.above_threshold.any()
    assert np.allclose(table.filter(like="probability").sum(axis=1), 1, atol=1e-4)

    flat = []
    for image in images:
        for box in image["boxes"]:
            flat.append((image["image"], box["finding"], box["score"], box["x2"]))
    columns = ["image", "finding", "score", "x2"]
    assert flat == list(boxes[columns].itertuples(index=False, name=None))

    failed = pd.read_csv(out / "failed.csv")
    assert set(failed.image) == UNREADABLE
    assert failed.reason.str.len().between(10, 400).all()
    text = page.read_text()
    for name in READABLE:
        overlay = cv2.imread(str(out / "overlays" / f"{name}.png"))
        assert max(overlay.shape) == 640
        assert name in text
    for name in UNREADABLE:
        assert name in text
    assert "Not for diagnosis" in text
    assert "http" not in text.replace("http://www.w3.org", "")
    printed = capsys.readouterr().out
    left_alone = "2 hidden files and folders, 1 other files were left alone"
    assert f"13 images, 0 of them done before; {left_alone}" in printed


def test_boxes_are_drawn_where_the_table_says(settings, tmp_path):
    """The overlay differs from the picture along the edges of the boxes above their threshold."""
    png(tmp_path / "in" / "a.png", xray(400, 800))
    predict(settings, tmp_path / "in")
    overlay = cv2.imread(str(settings.images.out / "overlays" / "a.png.png"))
    assert overlay.shape == (800, 400, 3)
    is_coloured = (overlay.max(-1) - overlay.min(-1)) > 60
    [image] = read_images(settings.images.out)
    marked = [box for box in image["boxes"] if box["above_threshold"]]
    assert marked
    for x1, y1, x2, y2 in corners_of(marked).round().astype(int):
        for y in (y1, min(y2, 799)):  # the notice and labels may hide a part
            edge = is_coloured[max(0, y - 3) : y + 3, max(0, x1) + 6 : x2 - 6]
            assert edge.any(0).mean() > 0.3


def test_a_picture_of_other_proportions_gives_the_same_boxes(settings, tmp_path):
    """As in step 02 the sides are not kept in proportion: stretched pictures, stretched boxes."""
    image = xray(64, 64)
    png(tmp_path / "in" / "a.png", image)
    png(tmp_path / "in" / "b.png", np.repeat(np.repeat(image, 3, axis=0), 2, axis=1))
    predict(settings, tmp_path / "in")
    square, stretched = (image["boxes"] for image in read_images(settings.images.out))
    assert square
    scores = [box["score"] for box in square]
    assert scores == pytest.approx([box["score"] for box in stretched], abs=1e-4)
    assert corners_of(square) * [2, 3, 2, 3] == pytest.approx(corners_of(stretched), abs=0.1)


def stamps(settings):
    """{record: when it was written}."""
    records = (settings.images.out / "boxes").rglob("*.json")
    return {path: path.stat().st_mtime_ns for path in records}


def test_what_is_done_is_kept(settings, messy, monkeypatch, capsys):
    predict(settings, messy)
    before = stamps(settings)
    table = read_predictions_csv(settings)
    (messy / "cut.png").write_bytes((messy / "a.png").read_bytes())  # repaired
    png(messy / "a.png", xray(50, 60))  # another image in its place
    predict(settings, messy)
    changed = {path.name for path, stamp in stamps(settings).items() if before.get(path) != stamp}
    assert changed == {"a.png.json", "cut.png.json"}
    assert set(read_predictions_csv(settings).image) == set(table.image) | {"cut.png"}

    for name in UNREADABLE - {"cut.png"}:
        (messy / name).unlink()
    nothing = property(lambda _: pytest.fail("nothing is to be predicted"))
    monkeypatch.setattr(RunNetworks, "models", nothing)
    predict(settings, messy)
    assert "9 images, 9 of them done before" in capsys.readouterr().out


class Killed(BaseException):
    pass


@pytest.fixture(scope="module")
def undisturbed(tiny_run, tmp_path_factory):
    """A folder of five images, and predictions.csv of a run over them that nothing disturbed."""
    folder = tmp_path_factory.mktemp("whole")
    for seed in range(5):
        png(folder / "in" / f"{seed}.png", xray(seed=seed))
    settings = tiny_run.replace(out=folder / "out")
    predict(settings, folder / "in")
    return folder / "in", read_predictions_csv(settings)


@pytest.mark.parametrize(
    "function, call, records",
    [("write_record", 1, 0), ("write_overlay", 4, 3), ("write_prediction_tables", 1, 5)],
)
def test_a_killed_run_goes_on(settings, undisturbed, monkeypatch, function, call, records):
    folder, expected = undisturbed
    original = getattr(flow, function)
    calls = itertools.count(1)

    def killer(*arguments):
        if next(calls) == call:
            raise Killed
        return original(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(flow, function, killer)
        with pytest.raises(Killed):
            predict(settings, folder)
    kept = stamps(settings)
    assert len(kept) == records
    assert not (settings.images.out / "index.html").exists()
    predict(settings, folder)
    after = stamps(settings)
    assert all(after[path] == stamp for path, stamp in kept.items())
    pd.testing.assert_frame_equal(read_predictions_csv(settings), expected, atol=0.02, rtol=1e-3)
    assert not list(settings.images.out.rglob("*.tmp*"))


def test_other_settings_need_another_folder(settings, tmp_path):
    image = png(tmp_path / "in" / "a.png", xray())
    predict(settings, image)
    with pytest.raises(InputError, match="made with other tta: choose another --out"):
        predict(settings.replace(tta="none"), image)
    with pytest.raises(InputError, match="made with other checkpoints"):
        predict(settings.replace(fold=1), image)


def test_one_fold_and_its_kept_epochs(settings):
    every = Predictor(TINY_TASK, settings)
    names = [f"{path.parent.name}/{path.name}" for path in every.networks.checkpoints]
    assert names == [
        "fold0/epoch001.pt",
        "fold0/epoch002.pt",
        "fold1/epoch001.pt",
        "fold1/epoch002.pt",
    ]
    last = Predictor(TINY_TASK, settings.replace(fold=1, checkpoints=1))
    assert [path.parent.name for path in last.networks.checkpoints] == ["fold1"]


def test_no_run(settings, tmp_path):
    png(tmp_path / "a.png", xray())
    words = r"gone holds no trained fold: name a trained run by --run \(there are: run\)"
    with pytest.raises(InputError, match=words):
        predict(settings.replace(run="gone"), tmp_path)
    assert not settings.images.out.exists()


def test_without_step_05_plain_thresholds_and_a_note(settings, tmp_path, capsys):
    working = link_tree(settings.place.working, tmp_path / "working", "params.json")
    image = png(tmp_path / "in" / "a.png", xray())
    page = predict(settings.replace(working=working), image)
    content = json.loads((settings.images.out / "predictions.json").read_text())
    assert content["thresholds"] == {"box": 0.1}
    assert "step 05 was not run" in content["notes"][0]
    assert "step 05 was not run" in page.read_text()
    assert "step 05 was not run" in capsys.readouterr().out


@pytest.mark.parametrize(
    "content", [{"threshold": {"Nodule": 0.3}, "nms_iou": 0.5}, {"no such": 1}, [1]]
)
def test_parameters_of_something_else(settings, tmp_path, content):
    working = link_tree(settings.place.working, tmp_path / "working", "params.json")
    moved = settings.replace(working=working)
    write_json(RunFolder.of(moved.place).judged().params, content)
    words = r"params.json does not fit this run .*: run 05_postprocess.py again"
    with pytest.raises(InputError, match=words):
        Predictor(TINY_TASK, moved)


def test_a_run_that_was_moved_alone(settings, tmp_path):
    """Without the folder of step 02 the side of its pictures comes from the run."""
    working = link_tree(settings.place.working, tmp_path / "working", "preprocess.json")
    assert Predictor(TINY_TASK, settings).sides == [64, 192]
    assert Predictor(TINY_TASK, settings.replace(working=working)).sides == [512, 192]


def test_nothing_can_be_read(settings, messy):
    words = r"none of 2 images could be predicted, see .*failed.csv; the first: "
    with pytest.raises(InputError, match=words):
        predict(settings, messy / "cut.png", messy / "text.dcm")
    out = settings.images.out
    assert len(pd.read_csv(out / "failed.csv")) == 2
    assert read_images(out) == []
    assert read_predictions_csv(settings).empty


LATERAL = "the view is LL, which is not frontal"


@pytest.fixture
def mixed(tmp_path):
    """A folder of a frontal X-ray, a lateral one, and a picture without a header."""
    folder = tmp_path / "mixed"
    png(folder / "plain.png", xray())
    tags = {
        "Modality": "CR",
        "BodyPartExamined": "CHEST",
        "StudyInstanceUID": "1.2.3.4",
        "SeriesInstanceUID": "1.2.3.4.5",
    }
    save(folder / "frontal.dcm", make_dataset(xray(), **tags, ViewPosition="PA"))
    save(folder / "lateral.dcm", make_dataset(xray(), **tags, ViewPosition="LL"))
    return folder


def test_one_command_writes_into_a_folder_and_clears_what_a_killed_one_left(settings, tmp_path):
    out = settings.images.out
    image = png(tmp_path / "a.png", xray())
    with alone_in(out), pytest.raises(InputError, match="another process writes into"):
        predict(settings, image)
    leftover = out / "overlays" / "deeper" / ".0badcafe.1.tmp.png"
    leftover.parent.mkdir(parents=True)
    leftover.write_bytes(b"half")
    predict(settings, image)
    assert not leftover.exists()


def test_other_images_are_predicted_and_marked(settings, mixed, capsys):
    page = predict(settings.replace(dicom_sr=True), mixed)
    out = settings.images.out
    marks = {image["image"]: image["not_frontal_chest"] for image in read_images(out)}
    assert marks == {"plain.png": "", "frontal.dcm": "", "lateral.dcm": LATERAL}
    table = read_predictions_csv(settings)
    marked_rows = table[table["not_frontal_chest"].notna()]
    assert set(marked_rows["image"]) == {"lateral.dcm"}
    assert set(marked_rows["not_frontal_chest"]) == {LATERAL}
    words = "1 of 3 images are no frontal chest X-rays by their headers"
    assert words in capsys.readouterr().out
    text = page.read_text()
    assert words in text
    assert text.count(f"no frontal chest X-ray: {LATERAL}") == 1
    assert LATERAL.encode() in (out / "structured_reports" / "lateral.dcm.dcm").read_bytes()
    assert b"frontal" not in (out / "structured_reports" / "frontal.dcm.dcm").read_bytes()


def test_other_images_are_left_out(settings, mixed, capsys):
    out = settings.images.out
    predict(settings, mixed / "lateral.dcm", mixed / "plain.png")  # marked, in the same folder
    predict(settings.replace(only_chest=True), mixed)
    assert {image["image"] for image in read_images(out)} == {"plain.png", "frontal.dcm"}
    assert set(read_predictions_csv(settings)["image"]) == {"plain.png", "frontal.dcm"}
    [failure] = pd.read_csv(out / "failed.csv").itertuples()
    assert failure.image == "lateral.dcm"
    assert failure.reason == f"left out with --only-chest, since {LATERAL}"
    words = "1 of 3 images are no frontal chest X-rays by their headers and were left out"
    assert words in capsys.readouterr().out
    with pytest.raises(InputError, match=r"none of 1 images could be predicted.*left out"):
        predict(settings.replace(only_chest=True), mixed / "lateral.dcm")


def test_a_name_that_is_too_long_costs_only_itself(settings, tmp_path):
    long = "x" * 250 + ".png"  # 254 of 255 letters that a name may have
    png(tmp_path / "in" / "a.png", xray())
    png(tmp_path / "in" / long, xray())
    for _ in range(2):
        predict(settings, tmp_path / "in")
        assert {image["image"] for image in read_images(settings.images.out)} == {"a.png"}
        [failure] = pd.read_csv(settings.images.out / "failed.csv").itertuples()
        assert failure.image == long
        assert failure.reason.startswith("has too long a name for the files that are made of it")


def test_strange_names(settings, tmp_path):
    """Quotes, markup and bytes that are no text reach the tables and the page unharmed."""
    names = ['say "hi", <b>.png', "ünï.png", "100%#?.png", os.fsdecode(b"bytes\xff.png")]
    for name in names:
        png(tmp_path / "in" / name, xray())
    page = predict(settings, tmp_path / "in").read_text()
    path = settings.images.out / "predictions.csv"
    with open(path, newline="", encoding="utf-8") as file:
        written = {row["image"] for row in csv.DictReader(file)}
    assert written == {name.encode("utf-8", "replace").decode() for name in names}
    assert "<b>.png" not in page
    assert "overlays/100%25%23%3F.png.png" in page
    assert "overlays/bytes%FF.png.png" in page


@pytest.mark.skipif(not ODD.is_dir(), reason=f"no odd DICOMs at {ODD} (CXR_SHARED_DATA)")
def test_forty_odd_dicoms(settings):
    predict(settings.replace(dicom_sr=True, workers=2, batch_size=8), ODD)
    failed = pd.read_csv(settings.images.out / "failed.csv")
    images = read_images(settings.images.out)
    assert set(failed.what) == {"image"}
    assert len(failed) <= 6
    assert len(failed) + len(images) == 40
    for image in images:
        assert (settings.images.out / image["structured_report"]).is_file()


def test_the_same_as_steps_02_04_and_05(pipeline, tmp_path):
    """The test images' DICOMs, given as a plain folder, get the boxes of the submission."""
    images = pipeline.source / "stage_2_test_images"
    status, printed = run_here("04_predict", *pipeline.flags, "--images", images, "--out", tmp_path)
    assert status == 0, printed
    by_id = {image["image"].removesuffix(".dcm"): image for image in read_images(tmp_path)}
    params = Params(**json.loads((pipeline.run / "params.json").read_text()))
    usual = list(read_predictions(pipeline.run / "test_predictions", Candidates))
    assert {candidates.image_id for candidates in usual} == by_id.keys()
    for candidates in usual:
        image = by_id[candidates.image_id]
        probabilities = list(image["probabilities"].values())
        assert probabilities == pytest.approx(candidates.category.tolist(), abs=1e-4)
        marked = [box for box in image["boxes"] if box["above_threshold"]]
        assert_same_boxes(marked, detections_of(candidates, params))
        every = detections_of(candidates, replace(params, threshold=0.0))
        assert_same_boxes(image["boxes"], every.take(slice(50)))

    submission = pd.read_csv(pipeline.run / "submission.csv", keep_default_na=False)
    counts = {}
    for image_id, image in by_id.items():
        counts[image_id] = sum(box["above_threshold"] for box in image["boxes"])
    texts = submission.set_index("patientId").PredictionString
    for image_id, text in texts.items():
        assert len(text.split()) // 5 == counts[image_id]


def test_processes_share_the_images(pipeline, messy, tmp_path):
    """With the tables of one process, those that cannot be read among them."""
    flags = (*pipeline.flags, "--images", messy, "--out")
    status, printed = run_here("04_predict", *flags, tmp_path / "one")
    assert status == 0, printed
    launcher = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "--")
    words = [sys.executable, *launcher, ROOT / "04_predict.py", *flags, tmp_path / "two"]
    done = subprocess.run(list(map(str, words)), capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("13 images, 0 of them done before") == 1
    one = pd.read_csv(tmp_path / "one" / "predictions.csv")
    two = pd.read_csv(tmp_path / "two" / "predictions.csv")
    pd.testing.assert_frame_equal(one, two, atol=0.02, rtol=1e-3)
    failed = (tmp_path / "one" / "failed.csv").read_text()
    assert (tmp_path / "two" / "failed.csv").read_text() == failed


def detections_of(candidates, params):
    return detect(candidates, params, TASKS["rsna"].dataset.scorer.gate_weights)


def assert_same_boxes(boxes, detections):
    """Boxes of a record are these detections."""
    assert len(boxes) == len(detections)
    assert [box["score"] for box in boxes] == pytest.approx(detections.scores.tolist(), abs=1e-4)
    assert np.abs(corners_of(boxes) - detections.boxes).max(initial=0) < 0.1
