"""edge_predict.py: the rules and pictures of cxr without cxr, and with three packages alone."""

import csv
import errno
import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import cv2
import numpy as np
import pydicom
import pytest
import torch
import typing_extensions
from exported import SETTINGS, SIDE, TASK, lively_network
from PIL import Image
from pydicom.uid import JPEG2000Lossless, JPEGLosslessSV1, JPEGLSLossless
from steps import ROOT
from test_images import ODD, RSNA, jpeg_dicom, make_dataset, needs_rsna, save
from test_odd_headers import compress_by_gdcm

import edge_predict
from cxr.geometry.anchors import flip_index, make_anchors
from cxr.images.read import read_image
from cxr.methods.detector.class_scorer import all_detections
from cxr.methods.detector.heads import best_pairs
from cxr.methods.detector.image_scorer import RsnaMap
from cxr.methods.detector.records import Candidates, Params, detect
from cxr.steps.export.onnx_files import replace_settings, write_fp32
from edge_predict import Predictor, Refused, decide, read_settings, read_xray

CHEST = sorted((RSNA / "stage_2_train_images").glob("*.dcm"))[:6] if RSNA.is_dir() else []
SHARED = [path for path in sorted(ODD.rglob("*")) if path.is_file()] if ODD.is_dir() else []
GATE = (0.0, 0.1, 1.0)
FRAME = (640, 480)
# A machine with one core, 1 GB of address space (so at most that in memory) and three packages:
# numpy, OpenCV and pydicom.
BARE = """
import json, os, resource, sys
packages, root, model, image, out = sys.argv[1:]
sys.path[:0] = [packages]
resource.setrlimit(resource.RLIMIT_AS, (10**9, 10**9))
os.sched_setaffinity(0, [min(os.sched_getaffinity(0))])
import importlib.util as known
for name in ("torch", "onnxruntime", "onnx", "PIL", "pandas", "cxr"):
    assert known.find_spec(name) is None, name
import runpy
edge = runpy.run_path(root + "/edge_predict.py")
edge["main"]([model, image, "--out", out, "--overlay"])
status = dict(line.split(":", 1) for line in open("/proc/self/status"))
print(json.dumps({"MiB": int(status["VmHWM"].split()[0]) // 1024}))
"""


@pytest.fixture(autouse=True)
def quick_start(request, monkeypatch):
    """Most tests are about other things than which engine is right."""
    if "engines" not in request.keywords:
        monkeypatch.setattr(edge_predict, "choose_engine", lambda *_: "onnxruntime")


def draw_candidates(rng, count, classes=1):
    centre = rng.uniform(-20, 660, (count, 2))
    size = rng.uniform(0.5, 200, (count, 2))
    score = np.sort(rng.uniform(0.011, 0.95, count))[::-1]
    return Candidates(
        "x",
        *FRAME,
        rng.dirichlet(np.ones(3)),
        centre,
        size,
        size * rng.uniform(1, 1.5, (count, 2)),
        score,
        rng.integers(0, classes, count).astype(np.int16),
    )


def decide_by_edge(drawn, rule):
    """(boxes, scores, labels) above the thresholds."""
    candidates = edge_predict.Candidates(
        drawn.centre, drawn.size20, drawn.size80, drawn.score, drawn.label
    )
    prediction = decide(candidates, drawn.category, FRAME, rule)
    kept = prediction["kept"]
    return prediction["boxes"][kept], prediction["scores"][kept], prediction["labels"][kept]


@pytest.mark.parametrize(
    "merge, gate, half, count",
    [
        *itertools.product(("nms", "wbf"), (False, True), (False, True), (40,)),
        ("nms", True, True, 0),
        ("wbf", False, False, 0),
        ("wbf", True, False, 1),
        ("wbf", False, False, 400),
    ],
)
def test_boxes_are_those_of_step_05(merge, gate, half, count):
    rng = np.random.default_rng(count)
    params = Params(
        percentile_shrink=1.6, scale=0.875, merge=merge, gate=gate, half=half, threshold=0.9
    )
    rule = RsnaMap(GATE, ()).export_rule(asdict(params), None, None)
    for _ in range(5):
        drawn = draw_candidates(rng, count)
        boxes, scores, labels = decide_by_edge(drawn, rule)
        expected = detect(drawn, params, GATE)
        np.testing.assert_allclose(boxes, expected.boxes, atol=1e-3)
        np.testing.assert_allclose(scores, expected.scores, atol=1e-9)
        np.testing.assert_array_equal(labels, expected.labels)


@pytest.mark.parametrize("count", [0, 1, 300])
def test_each_class_has_its_own_boxes_and_threshold(count):
    drawn = draw_candidates(np.random.default_rng(1), count, 3)
    thresholds = [0.2, 0.5, 0.8]
    rule = {
        "percentile_shrink": -0.5,
        "scale": 1.0,
        "merge": "nms",
        "half": False,
        "score_floor": 0.0,
        "nms_iou": 0.5,
        "gate_weights": [],
        "thresholds": thresholds,
    }
    detections = all_detections(drawn, Params(nms_iou=0.5, score_floor=0.0))
    expected = detections.above(np.array(thresholds))
    boxes, scores, labels = decide_by_edge(drawn, rule)
    np.testing.assert_allclose(boxes, expected.boxes, atol=1e-9)
    np.testing.assert_allclose(scores, expected.scores, atol=1e-9)
    np.testing.assert_array_equal(labels, expected.labels)


@pytest.mark.parametrize("side, levels", [(192, (3, 4, 5)), (256, (2, 3, 4, 5, 6, 7)), (224, (5,))])
def test_anchors_are_those_of_the_network(side, levels):
    centre, size = edge_predict.make_anchors(side, levels)
    anchors = make_anchors(side, levels).numpy()
    np.testing.assert_allclose(
        np.concatenate([centre - size / 2, centre + size / 2], 1), anchors, atol=1e-3
    )
    np.testing.assert_array_equal(
        edge_predict.mirror_index(side, levels), flip_index(side, levels).numpy()
    )


@pytest.mark.parametrize("floor", [0.5, 2])
def test_best_anchors_of_each_class(floor):
    scores = np.random.default_rng(0).permutation(600).reshape(200, 3) / 600
    expected = best_pairs(torch.from_numpy(scores), 20, floor)
    for by_edge, true in zip(edge_predict.best_anchors(scores, floor, 20), expected, strict=True):
        np.testing.assert_array_equal(by_edge, true.numpy())


RAMP = np.arange(4096, dtype=np.uint16).reshape(64, 64)


@pytest.mark.parametrize(
    "pixels, bits, tags",
    [
        (RAMP.astype(np.uint8), None, {}),
        (RAMP.astype(np.uint8), None, {"PhotometricInterpretation": "MONOCHROME1"}),
        (RAMP, 12, {}),
        (RAMP, 12, {"PhotometricInterpretation": "MONOCHROME1"}),
        (RAMP + 0xA000, 12, {}),
        (RAMP * 7, 16, {}),
        (RAMP, 12, {"RescaleSlope": 2.5, "RescaleIntercept": -1024}),
        (RAMP.astype(np.int16) - 2000, 12, {}),
        (
            RAMP.astype(np.int16) - 2000,
            16,
            {"PixelPaddingValue": -2000, "PixelPaddingRangeLimit": -1500},
        ),
        (RAMP, 12, {"WindowCenter": 2000, "WindowWidth": 800}),
        (RAMP, 12, {"WindowCenter": [900, 5], "WindowWidth": [1, 2]}),
        (
            RAMP,
            12,
            {
                "WindowCenter": 2000,
                "WindowWidth": 800,
                "RescaleSlope": -1,
                "RescaleIntercept": 4095,
            },
        ),
        (RAMP, 12, {"WindowCenter": 2000, "WindowWidth": 800, "VOILUTFunction": "SIGMOID"}),
        (RAMP, 12, {"WindowCenter": 2000, "WindowWidth": 800, "VOILUTFunction": "LINEAR_EXACT"}),
        (RAMP, 12, {"WindowCenter": 9000, "WindowWidth": 8}),
        (RAMP, 12, {"WindowCenter": "", "WindowWidth": ""}),
        (RAMP, 12, {"PresentationLUTShape": "INVERSE"}),
        (np.full((2, 3), 700, np.uint16), 12, {}),
    ],
)
def test_dicoms_give_the_pictures_of_cxr(tmp_path, pixels, bits, tags):
    path = save(tmp_path / "x.dcm", make_dataset(pixels, bits, **tags))
    np.testing.assert_array_equal(read_xray(path).picture, read_image(path)[0])


def test_jpeg_inside_dicom_and_pictures(tmp_path):
    gray = cv2.GaussianBlur(
        np.random.default_rng(0).integers(0, 256, (90, 70), dtype=np.uint8), (0, 0), 2
    )
    colour = np.stack([gray, 255 - gray, gray // 2, gray], -1)
    path, _ = jpeg_dicom(tmp_path / "x.dcm", gray)
    Image.fromarray(gray).save(tmp_path / "gray.jpg")
    Image.fromarray(gray).save(tmp_path / "gray.png")
    Image.fromarray(gray.astype(np.uint16) * 200).save(tmp_path / "deep.png")
    Image.fromarray(colour[..., :3]).save(tmp_path / "rgb.png")
    Image.fromarray(colour).save(tmp_path / "rgba.png")
    for path in sorted(tmp_path.iterdir()):
        np.testing.assert_array_equal(
            read_xray(path).picture, read_image(path)[0], err_msg=path.name
        )


@pytest.mark.parametrize(
    "height, width, side",
    [
        (1024, 1024, 512),  # two by two
        (1536, 768, 256),
        (700, 900, 512),
        (901, 640, 224),
        (100, 120, 192),
        (40, 700, 192),  # one side grows
        (700, 190, 192),
        (1, 1, 16),
        (3, 500, 5),
    ],
)
def test_numpy_resizes_as_opencv(height, width, side, monkeypatch):
    picture = np.random.default_rng(side).integers(0, 256, (height, width), np.uint8)
    expected = edge_predict.resize(picture, side)
    monkeypatch.setattr(edge_predict, "cv2", None)
    np.testing.assert_array_equal(edge_predict.resize(picture, side), expected)


def test_pillow_gives_the_pictures_of_opencv(tmp_path, monkeypatch):
    smooth = cv2.GaussianBlur(
        np.random.default_rng(0).integers(0, 256, (90, 70, 3), dtype=np.uint8), (0, 0), 2
    )
    gray = Image.fromarray(smooth[..., 0])
    colour = Image.fromarray(smooth)
    pictures = {
        "gray.jpg": gray,
        "colour.jpg": colour,
        "gray.png": gray,
        "deep.png": Image.fromarray(smooth[..., 0].astype(np.uint16) * 200),
        "bits.png": gray.convert("1"),
        "colour.png": colour,
        "palette.png": colour.quantize(16),
        "alpha.png": colour.convert("RGBA"),
        "gray_alpha.png": gray.convert("LA"),
    }
    for name, picture in pictures.items():
        picture.save(tmp_path / name)
    jpeg_dicom(tmp_path / "x.dcm", smooth[..., 0])
    paths = sorted(tmp_path.iterdir())
    expected = [read_xray(path).picture for path in paths]
    monkeypatch.setattr(edge_predict, "cv2", None)
    for path, right in zip(paths, expected, strict=True):
        np.testing.assert_array_equal(read_xray(path).picture, right, err_msg=path.name)


def test_what_pillow_cannot_give_is_refused(tmp_path, monkeypatch):
    deep = np.zeros((8, 8, 3), np.uint16)
    cv2.imwrite(str(tmp_path / "deep.png"), deep)
    Image.new("CMYK", (8, 8)).save(tmp_path / "print.jpg")
    monkeypatch.setattr(edge_predict, "cv2", None)
    for name, words in (("deep.png", "16 bits, which need OpenCV"), ("print.jpg", "CMYK")):
        with pytest.raises(Refused, match=words):
            read_xray(tmp_path / name)
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(Refused, match="needs OpenCV or Pillow"):
        read_xray(tmp_path / "print.jpg")


def test_boxes_without_opencv(exported, tmp_path):
    """And a sentence where it is needed."""
    dicom = min((exported.settings.place.working / "dicoms").glob("*.dcm"))
    program = "import sys; sys.modules['cv2'] = None; sys.argv[0] = 'edge_predict.py'\n"
    program += "import runpy; runpy.run_path(sys.argv.pop(1), run_name='__main__')"
    command = [sys.executable, "-c", program, str(ROOT / "edge_predict.py"), str(exported.fp32)]
    command += [str(dicom), "--engine", "onnxruntime", "--out"]
    done = subprocess.run([*command, str(tmp_path / "a")], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    edge_predict.main([str(exported.fp32), str(dicom), "--out", str(tmp_path / "b")])
    answers = []
    for folder in ("a", "b"):
        answer = json.loads((tmp_path / folder / "predictions.json").read_text())
        answers.append(answer["images"])
    assert answers[0] == answers[1]
    done = subprocess.run([*command, str(tmp_path / "a"), "--overlay"], capture_output=True)
    assert b"error: --overlay draws with OpenCV" in done.stderr


@needs_rsna
@pytest.mark.parametrize("path", CHEST, ids=lambda path: path.stem[:8])
def test_real_dicoms_give_the_pictures_of_cxr(path):
    np.testing.assert_array_equal(read_xray(path).picture, read_image(path)[0])


@pytest.mark.skipif(not SHARED, reason=f"no odd files at {ODD} (CXR_SHARED_DATA)")
def test_odd_files_are_read_as_by_cxr_or_refused():
    read = 0
    for path in SHARED:
        try:
            picture = read_xray(path).picture
        except Refused as error:
            assert str(path) in str(error)
            continue
        np.testing.assert_array_equal(picture, read_image(path)[0], err_msg=path.name)
        read += 1
    assert read >= 15


def save_compressed(path, syntax):
    """RAMP of 12 bits, without loss."""
    dataset = make_dataset(RAMP, 12)
    dataset.compress(syntax, generate_instance_uid=False)
    return save(path, dataset)


@pytest.mark.parametrize("syntax", [JPEG2000Lossless, JPEGLSLossless])
def test_compressed_dicoms_give_the_same_picture(tmp_path, syntax):
    plain = save(tmp_path / "plain.dcm", make_dataset(RAMP, 12))
    path = save_compressed(tmp_path / "x.dcm", syntax)
    np.testing.assert_array_equal(read_xray(path).picture, read_xray(plain).picture)


def test_gdcm_decodes_in_a_process_of_its_own(tmp_path, monkeypatch):
    pytest.importorskip("gdcm")
    plain = save(tmp_path / "plain.dcm", make_dataset(RAMP, 12))
    path = tmp_path / "x.dcm"
    compress_by_gdcm(plain, path, JPEGLosslessSV1)
    np.testing.assert_array_equal(read_xray(path).picture, read_xray(plain).picture)
    died = subprocess.CompletedProcess([], -signal.SIGABRT, b"", b"")
    monkeypatch.setattr(edge_predict, "run_apart", lambda *_: died)
    with pytest.raises(Refused, match="damaged"):
        read_xray(path)


def test_without_a_plugin_the_sentence_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setattr(edge_predict, "PLUGINS", dict.fromkeys(edge_predict.PLUGINS, ("none",)))
    monkeypatch.setattr(edge_predict, "PLUGIN_PACKAGES", {"none": "the-package"})
    path = save_compressed(tmp_path / "x.dcm", JPEG2000Lossless)
    with pytest.raises(Refused, match=r"x\.dcm: is compressed as .*pip install the-package"):
        read_xray(path)


def test_refusals_name_file_and_reason(tmp_path):
    Image.fromarray(RAMP.astype(np.uint8)).save(tmp_path / "whole.png")
    cases = {
        "colours": make_dataset(np.zeros((4, 4, 3), np.uint8)),
        "2 frames": make_dataset(RAMP, 12, NumberOfFrames=2),
        "bits": make_dataset(RAMP.astype(np.uint32), 32),
        "no X-ray has so many": make_dataset(RAMP, 12, Rows=9000, Columns=9000),
    }
    files = {}
    for number, (words, dataset) in enumerate(cases.items()):
        files[words] = save(tmp_path / f"{number}.dcm", dataset)
    contents = {
        "": b"",
        "no DICOM, PNG or JPEG": b"hello",
        "cut off": (tmp_path / "whole.png").read_bytes()[:-30],
    }
    for number, (words, content) in enumerate(contents.items()):
        files[words] = tmp_path / f"content {number}"
        files[words].write_bytes(content)

    for words, path in files.items():
        with pytest.raises(Refused) as caught:
            read_xray(path)
        sentence = str(caught.value)
        assert words in sentence
        assert str(path) in sentence
        assert "\n" not in sentence


def test_a_file_that_is_no_model_of_ours_is_refused(exported, tmp_path, monkeypatch):
    content = exported.fp32.read_bytes()
    path = tmp_path / "x.onnx"
    settings = json.dumps(read_settings(exported.fp32)).encode()
    with pytest.raises(Refused, match="missing"):
        read_settings(path)
    for broken in (
        b"",
        b"hello",
        content[:5000],
        content[:-100],
        content.replace(settings, b" " * len(settings)),
    ):
        path.write_bytes(broken)
        with pytest.raises(Refused, match=r"06_export\.py"):
            read_settings(path)
    monkeypatch.setattr(edge_predict, "FORMATS", (4,))
    with pytest.raises(Refused, match="format 3"):
        read_settings(exported.fp32)


def test_the_command(exported, tmp_path, capsys):
    """Nested folders; what is no image is passed over, what is broken is in failed.csv."""
    source = tmp_path / "in"
    out = tmp_path / "out"
    (source / "deep").mkdir(parents=True)
    dicoms = sorted((exported.settings.place.working / "dicoms").glob("*.dcm"))
    os.link(dicoms[0], source / "deep" / "a.dcm")
    cv2.imwrite(str(source / "b.png"), np.zeros((50, 80), np.uint8))
    (source / "notes.txt").write_text("no image")
    (source / "c.dcm").write_bytes(dicoms[1].read_bytes()[:3000])
    inputs = [str(source), str(dicoms[2])]
    options = ["--out", str(out), "--overlay", "--threads", "1"]
    edge_predict.main([str(exported.int8), *inputs, *options])
    assert "onnxruntime" in capsys.readouterr().out

    predictions = json.loads((out / "predictions.json").read_text())
    images = {entry["file"]: entry for entry in predictions["images"]}
    assert list(images) == ["b.png", "deep/a.dcm", dicoms[2].name]
    assert (images["b.png"]["width"], images["b.png"]["height"]) == (80, 50)
    assert sum(images["deep/a.dcm"]["image_classes"].values()) == pytest.approx(1, abs=1e-4)
    assert len(images["deep/a.dcm"]["boxes"]) > 0

    # Tables and pictures agree.
    rows = list(csv.DictReader((out / "predictions.csv").open()))
    assert {row["file"] for row in rows} == images.keys()
    assert "p_Normal" in rows[0]
    for name, entry in images.items():
        boxes = []
        for row in rows:
            if row["file"] == name and row["x1"]:
                boxes.append([float(row[column]) for column in ("x1", "y1", "x2", "y2")])
        assert boxes == [box["box"] for box in entry["boxes"]]
        overlay = cv2.imread(str(out / "overlays" / f"{name}.png"))
        assert overlay.shape[:2] == (entry["height"], entry["width"])

    failed = list(csv.DictReader((out / "failed.csv").open()))
    assert [row["file"] for row in failed] == ["c.dcm"]
    assert not list(out.rglob(".*.tmp"))


def test_the_command_refuses_in_a_sentence(exported, tmp_path):
    script = [sys.executable, str(ROOT / "edge_predict.py")]
    (tmp_path / "sub").mkdir()
    for path in (tmp_path / "x", tmp_path / "sub" / "z"):
        path.write_text("no image")
    for model, source, words in (
        (exported.fp32, tmp_path / "sub" / "z", "failed.csv"),
        (exported.fp32, tmp_path / "y", "missing"),
        (tmp_path / "x", tmp_path / "sub" / "z", "06_export.py"),
        (exported.fp32, tmp_path, "give the folder that holds both"),
    ):
        done = subprocess.run(
            [*script, model, source, tmp_path / "x", "--out", tmp_path / "out"],
            capture_output=True,
            text=True,
        )
        assert done.returncode == 1
        assert words in done.stderr
        assert "Traceback" not in done.stderr


TABLES = ("predictions.csv", "predictions.json", "failed.csv")


@pytest.fixture
def folder_of_images(tmp_path):
    """Seven pictures and a broken one."""
    folder = tmp_path / "in"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for number in range(7):
        cv2.imwrite(str(folder / f"{number}.png"), rng.integers(0, 256, (60, 50), np.uint8))
    (folder / "broken.png").write_bytes(b"broken")
    return folder


@pytest.fixture
def predicted(monkeypatch):
    """A list that grows with each picture that the networks look at."""
    pictures = []
    original = Predictor.__call__

    def watched(self, picture, frame=None):
        pictures.append(picture)
        return original(self, picture, frame)

    monkeypatch.setattr(Predictor, "__call__", watched)
    return pictures


def without_time(path):
    """The content without the line that says when it was written."""
    return [line for line in path.read_text().splitlines() if '"written"' not in line]


def read_records(out):
    """{name: "entry" or "failed"} of the whole lines of predictions.jsonl."""
    _, *lines = (out / "predictions.jsonl").read_text().split("\n")
    outcomes = {}
    for line in lines[:-1]:
        record = json.loads(line)
        outcomes[record["source"]["name"]] = "entry" if "entry" in record else "failed"
    return outcomes


def test_a_killed_run_loses_no_row(exported, folder_of_images, tmp_path, predicted, capsys):
    undisturbed = tmp_path / "undisturbed"
    edge_predict.main([str(exported.int8), str(folder_of_images), "--out", str(undisturbed)])
    assert len(predicted) == 7
    predicted.clear()

    out = tmp_path / "out"
    inputs = [str(exported.int8), str(folder_of_images)]
    arguments = [*inputs, "--out", str(out), "--engine", "onnxruntime"]
    process = subprocess.Popen(
        [sys.executable, "-u", ROOT / "edge_predict.py", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    said = []
    for line in process.stdout:
        said.append(line.split(":")[0])
        if len(said) == 4:  # the model and three images
            process.kill()
            break
    process.communicate()
    records = read_records(out)
    assert set(said[1:]) <= set(records)
    assert not [name for name in TABLES if (out / name).exists()]

    with (out / "predictions.jsonl").open("a") as file:
        file.write('{"source": {"name": "half a li')
    capsys.readouterr()
    edge_predict.main(arguments)
    assert f"{len(records)} of the 8 files were done before" in capsys.readouterr().out
    assert len(predicted) == 7 - list(records.values()).count("entry")
    for name in TABLES:
        assert without_time(out / name) == without_time(undisturbed / name)

    # Once more there is nothing to do, for the broken file neither.
    predicted.clear()
    assert edge_predict.main(arguments) == 2
    said = capsys.readouterr()
    assert "8 of the 8 files" in said.out
    assert not said.err
    assert not predicted


def test_what_changed_is_predicted_again(exported, folder_of_images, tmp_path, predicted, capsys):
    out = tmp_path / "out"
    inputs = [str(folder_of_images), "--out", str(out)]
    edge_predict.main([str(exported.int8), *inputs])
    predicted.clear()

    cv2.imwrite(str(folder_of_images / "2.png"), np.zeros((30, 40), np.uint8))
    os.utime(folder_of_images / "3.png", (1, 1))
    cv2.imwrite(str(folder_of_images / "broken.png"), np.zeros((30, 40), np.uint8))
    (folder_of_images / "4.png").unlink()
    edge_predict.main([str(exported.int8), *inputs])
    assert len(predicted) == 3
    images = json.loads((out / "predictions.json").read_text())["images"]
    sizes = {entry["file"]: entry["width"] for entry in images}
    assert list(sizes) == ["0.png", "1.png", "2.png", "3.png", "5.png", "6.png", "broken.png"]
    assert sizes["2.png"] == 40
    assert (out / "failed.csv").read_text() == "file,reason\n"

    # Pictures that were not asked for before.
    predicted.clear()
    edge_predict.main([str(exported.int8), *inputs, "--overlay"])
    assert len(predicted) == 7
    edge_predict.main([str(exported.int8), *inputs, "--overlay"])
    assert len(predicted) == 7

    # Another model, other views.
    for model, options in ((exported.fp32, []), (exported.fp32, ["--no-flip"])):
        predicted.clear()
        capsys.readouterr()
        edge_predict.main([str(model), *inputs, *options])
        assert len(predicted) == 7
        assert "all is predicted anew" in capsys.readouterr().out


def test_results_may_lie_among_the_images(exported, folder_of_images, predicted):
    """Pictures with boxes are no X-rays; a long name has one, too."""
    cv2.imwrite(str(folder_of_images / f"{'x' * 250}.png"), np.zeros((30, 40), np.uint8))
    out = folder_of_images / "out"
    arguments = [str(exported.int8), str(folder_of_images), "--out", str(out), "--overlay"]
    for _ in range(2):
        edge_predict.main(arguments)
    assert len(predicted) == 8
    assert len(list((out / "overlays").iterdir())) == 8
    assert len(json.loads((out / "predictions.json").read_text())["images"]) == 8


def test_the_output_folder_is_tried_first(exported, folder_of_images, tmp_path, monkeypatch):
    def load(*_, **__):
        raise AssertionError("nothing is loaded before the folder is tried")

    (tmp_path / "file").write_text("no folder")
    monkeypatch.setattr(edge_predict, "Predictor", load)
    for out in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(Refused, match=r"cannot be written .*: choose another --out"):
            edge_predict.main([str(exported.int8), str(folder_of_images), "--out", str(out)])


def test_a_full_disk_is_a_sentence(exported, folder_of_images, tmp_path, monkeypatch):
    """What was written before remains, and the same command goes on."""
    out = tmp_path / "out"
    arguments = [str(exported.int8), str(folder_of_images), "--out", str(out)]
    original = edge_predict.sync
    calls = []

    def full(file):
        calls.append(file)
        if len(calls) == 4:  # the first is the line of the run
            raise OSError(errno.ENOSPC, "No space left on device")
        original(file)

    monkeypatch.setattr(edge_predict, "sync", full)
    with pytest.raises(Refused, match=r"No space left.*the same command"):
        edge_predict.main(arguments)
    assert {"0.png", "1.png"} <= set(read_records(out))
    monkeypatch.undo()
    edge_predict.main(arguments)
    assert len(read_records(out)) == 8


def choose(path, asked="auto"):
    return edge_predict.EngineChooser(path, read_settings(path), 1).choose(asked)


@pytest.fixture
def without_openvino(monkeypatch):
    """As on most devices; so results do not depend on what is installed here."""
    monkeypatch.setitem(sys.modules, "openvino", None)


def test_without_the_others_opencv_is_taken(exported, without_openvino, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    assert choose(exported.fp32) == ("opencv", [])
    with pytest.raises(Refused, match="pip install onnxruntime"):
        choose(exported.fp32, "onnxruntime")


@pytest.mark.skipif(not hasattr(signal, "SIGILL"), reason="signals of POSIX")
def test_an_engine_that_dies_is_passed_over(exported, without_openvino, tmp_path, monkeypatch):
    """Such as onnxruntime on a processor without the instructions that it was built for."""
    package = tmp_path / "onnxruntime.py"
    package.write_text("import os, signal\nos.kill(os.getpid(), signal.SIGILL)\n")
    monkeypatch.delitem(sys.modules, "onnxruntime")
    monkeypatch.syspath_prepend(str(tmp_path))
    engine, sentences = choose(exported.fp32)
    assert engine == "opencv"
    assert "onnxruntime is passed over: its process ends with signal 4" in sentences[0]
    with pytest.raises(Refused, match=r"onnxruntime cannot be used for .*signal 4"):
        choose(exported.fp32, "onnxruntime")


@pytest.mark.parametrize("is_told", [True, False])
def test_an_engine_that_is_wrong_is_passed_over(
    exported, without_openvino, tmp_path, monkeypatch, is_told
):
    """By what the file says is right, or, of an old one, by what another engine says."""

    def wrong(engine, path, side, names, threads):
        trial = original(engine, path, side, names, threads)
        if engine == "opencv":
            noise = np.random.default_rng(0).normal(0, 0.3, len(trial.outputs["scores0"]))
            spread = np.std(trial.outputs["scores0"])
            values = np.array(trial.outputs["scores0"]) + noise * spread
            trial.outputs["scores0"] = values.tolist()
        return trial

    original = edge_predict.try_engine
    monkeypatch.setattr(edge_predict, "try_engine", wrong)
    monkeypatch.setattr(edge_predict, "ENGINES", dict(reversed(edge_predict.ENGINES.items())))
    settings = read_settings(exported.fp32)
    if not is_told:
        del settings["self_test"]
    chooser = edge_predict.EngineChooser(exported.fp32, settings, 1)
    engine, sentences = chooser.choose("auto")
    assert engine == "onnxruntime"
    assert sentences[0].startswith("opencv")
    assert "scores0 of the test picture" in sentences[0]
    with pytest.raises(Refused, match=r"opencv .* cannot be used"):
        chooser.choose("opencv")


def test_int8_is_right_in_every_engine_or_refused(exported):
    """OpenCV 5 computes it wrongly on some processors; then it must be found out."""
    picture = edge_predict.draw_test_picture(SIDE)
    right = Predictor(exported.int8, models=[1]).look(picture).scores.ravel()
    engines = [name for name in edge_predict.ENGINES if edge_predict.is_installed(name)]
    for engine in engines:
        try:
            choose(exported.int8, engine)
        except Refused as error:
            assert engine in ("opencv", "ncnn"), error  # ncnn has no int8
            continue
        # A network that is not the first one.
        found = Predictor(exported.int8, engine, models=[1]).look(picture).scores.ravel()
        assert np.corrcoef(found, right)[0, 1] > 0.98
    assert len(engines) > 1


@pytest.mark.engines
def test_the_choice_is_kept_until_something_changes(exported, tmp_path, monkeypatch, capsys):
    asked = []

    def choose(self, engine):
        asked.append(engine)
        return "opencv", ["openvino is passed over: a reason"]

    monkeypatch.setattr(edge_predict.EngineChooser, "choose", choose)
    settings = read_settings(exported.fp32)
    for _ in range(2):
        engine = edge_predict.choose_engine("auto", exported.fp32, settings, 1, tmp_path)
        assert engine == "opencv"
        assert "passed over: a reason" in capsys.readouterr().err
    assert asked == ["auto"]
    edge_predict.choose_engine("auto", exported.int8, settings, 1, tmp_path)
    edge_predict.choose_engine("opencv", exported.int8, settings, 1, tmp_path)
    assert asked == ["auto", "auto", "opencv"]


def test_some_networks_of_a_merged_file(exported, tmp_path, capsys):
    path = tmp_path / "x.png"
    cv2.imwrite(str(path), edge_predict.draw_test_picture(90))
    arguments = [str(exported.int8), str(path), "--out", str(tmp_path / "out")]
    assert edge_predict.main([*arguments, "--models", "1"]) == 0
    assert "1 models x 2 views" in capsys.readouterr().out
    answer = json.loads((tmp_path / "out" / "predictions.json").read_text())
    assert list(answer["checkpoints"]) == ["fold1/epoch002.pt"]
    assert answer["sha256"] == edge_predict.read_check_sum(exported.int8)
    assert answer["engine"].startswith("onnxruntime 1.")
    assert {"model", "code", "program", "views", "written"} <= answer.keys()
    expected = Predictor(exported.int8, models=[1])(edge_predict.draw_test_picture(90))
    assert len(answer["images"][0]["boxes"]) == expected["kept"].sum()
    with pytest.raises(Refused, match="holds 2 networks: give --models from 0 to 1"):
        edge_predict.main([*arguments, "--models", "0,2"])


def test_what_arrives_in_a_watched_folder_is_predicted_once_it_is_whole(
    exported, folder_of_images, tmp_path, predicted, monkeypatch
):
    """A file that still grows waits; rows of a file that is taken away stay."""
    out = tmp_path / "out"
    whole = (folder_of_images / "0.png").read_bytes()
    late = folder_of_images / "late.png"
    looks = []

    def meanwhile(_):
        looks.append(len(predicted))
        if len(looks) == 2:
            late.write_bytes(whole[:100])
            (folder_of_images / "0.png").unlink()
        elif len(looks) == 3:
            late.write_bytes(whole)
        elif len(looks) == 6:
            raise KeyboardInterrupt

    monkeypatch.setattr(edge_predict.time, "sleep", meanwhile)
    with pytest.raises(KeyboardInterrupt):
        edge_predict.main([str(exported.int8), str(folder_of_images), "--out", str(out), "--watch"])
    assert looks == [0, 7, 7, 7, 8, 8]
    images = json.loads((out / "predictions.json").read_text())["images"]
    assert [entry["file"] for entry in images] == [f"{n}.png" for n in range(7)] + ["late.png"]
    with pytest.raises(Refused, match="--watch wants one folder"):
        edge_predict.main([str(exported.int8), str(late), "--out", str(out), "--watch"])


def test_damage_is_found(exported, tmp_path):
    edge_predict.refuse_damage(exported.int8)
    content = bytearray(exported.int8.read_bytes())
    rng = np.random.default_rng(0)
    for place in rng.integers(len(content) - 100, size=20):
        content[place] ^= 1 << rng.integers(8)
    (tmp_path / "x.onnx").write_bytes(content)
    with pytest.raises(Refused, match=r"x\.onnx is damaged: its SHA-256"):
        edge_predict.refuse_damage(tmp_path / "x.onnx")


@pytest.fixture(scope="module")
def bare_packages(tmp_path_factory):
    """A folder with numpy, OpenCV and pydicom alone, from this environment."""

    def take(source, target):
        if source.endswith(".py"):  # OpenCV looks for its libraries where its Python files are
            shutil.copy(source, target)
        else:
            os.symlink(source, target)

    folder = tmp_path_factory.mktemp("packages")
    for module in (np, cv2, pydicom):
        package = Path(module.__file__).parent
        name = "opencv*" if module is cv2 else package.name
        libraries = package.parent.glob(f"{name}.libs")
        facts = package.parent.glob(f"{name}-*.dist-info")
        for source in (package, *libraries, *facts):
            shutil.copytree(source, folder / source.name, copy_function=take)
    (folder / "typing_extensions.py").symlink_to(typing_extensions.__file__)  # comes with pydicom
    return folder


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="limits of Linux")
def test_a_weak_machine(exported, bare_packages, tmp_path):
    """A ResNet-18 at 512 pixels and a DICOM on one core with 1 GB and three packages."""
    drawn = sorted((exported.settings.place.working / "dicoms").glob("*.dcm"))
    image = [*CHEST, *drawn][0]  # a real one where there is one
    larger = {"encoder": "resnet18", "image_size": 512, "channels": 128, "head_convs": 4}
    settings = TASK.make_settings(SETTINGS | larger)
    torch.manual_seed(0)
    model = lively_network(settings, [read_image(image)[0]])
    path = tmp_path / "small.onnx"
    write_fp32(
        path,
        [model],
        read_settings(exported.fp32) | {"models": 1, "image_size": 512, "stored_size": 512},
        TASK.method.export,
    )
    by_onnxruntime = Predictor(path, "onnxruntime", threads=1)
    wanted = dict.fromkeys(["scores0", "deltas0", "category0"], 0.999)
    self_test = {"correlation": wanted, "outputs": by_onnxruntime.self_test(list(wanted))}
    replace_settings(path, by_onnxruntime.settings | {"self_test": self_test})
    arguments = [bare_packages, ROOT, path, image, tmp_path / "out"]
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", BARE, *arguments], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    facts = json.loads(done.stdout.splitlines()[-1])
    print(facts)
    assert "opencv" in done.stdout
    assert facts["MiB"] < 950
    predictions = json.loads((tmp_path / "out" / "predictions.json").read_text())
    boxes = [box["box"] for box in predictions["images"][0]["boxes"]]
    expected = by_onnxruntime(read_image(image)[0])
    np.testing.assert_allclose(boxes, expected["boxes"][expected["kept"]], atol=0.5)
    assert len(boxes) > 3
