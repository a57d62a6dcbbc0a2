"""Any folder of X-rays: what is found in it, how it is read, and what stands in the tables, on the page and on disk."""

import csv
import itertools
import json
import os
import struct
import threading
import zlib
from dataclasses import replace

import cv2
import numpy as np
import pandas as pd
import pytest
from PIL import Image
from steps import link_tree, run_here
from test_images import ODD, make_dataset, save
from tiny_task import TinyTask

from cxr.images.deep import read_deep
from cxr.images.folder import find_image_files
from cxr.images.isolated import Reader, read_all
from cxr.images.read import read_image
from cxr.images.resize import resize
from cxr.inference.predictions import read_predictions
from cxr.inference.predictor import Predictor
from cxr.methods.detector.records import Params, detect_labelled
from cxr.steps.predict import predict_images as flow
from cxr.steps.predict.predict_images import predict_images
from cxr.system.disk import write_json
from cxr.system.errors import InputError
from cxr.tasks import TASKS

TASK = TinyTask()


def xray(width=96, height=128, seed=0):
    """Noise with a white rectangle, (height, width) uint8."""
    image = np.random.default_rng(seed).integers(0, 60, (height, width), dtype=np.uint8)
    image[height // 4 : height // 2, width // 4 : width // 2] = 250
    return image


def png(path, pixels):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    return path


def huge_png(path, side):
    """A few bytes that claim side x side pixels."""
    header = b"IHDR" + struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
    parts = [b"IDAT" + zlib.compress(bytes(1000)), b"IEND"]
    chunks = [
        struct.pack(">I", len(part) - 4) + part + struct.pack(">I", zlib.crc32(part))
        for part in (header, *parts)
    ]
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(chunks))
    return path


def huge_dicom(path):
    return save(path, make_dataset(xray(), Rows=65_000, Columns=65_000))


@pytest.fixture
def messy(tmp_path):
    """Images of every kind, in folders, between other files: (folder, names that can be read, names that cannot)."""
    folder = tmp_path / "messy folder"
    gray = xray()
    png(folder / "a.png", gray)
    png(folder / "deeper" / "still" / "a.png", xray(seed=1))
    png(folder / "sixteen.png", gray.astype(np.uint16) * 200)
    png(folder / "alpha.png", np.dstack([gray] * 3 + [np.full_like(gray, 255)]))
    png(folder / "one pixel.png", gray[:1, :1])
    Image.fromarray(np.dstack([gray] * 3)).save(folder / "COLOUR.JPG")
    save(folder / "a.dcm", make_dataset(gray))
    save(folder / "no ending", make_dataset(gray.astype(np.uint16) * 16, bits=12))
    (folder / "text.dcm").write_text("these are words\n" * 20)
    (folder / "empty.png").write_bytes(b"")
    (folder / "cut.png").write_bytes((folder / "a.png").read_bytes()[:300])
    huge_png(folder / "huge.png", 9000), huge_dicom(folder / "huge.dcm")
    (folder / "notes.txt").write_text("not an image")
    (folder / ".hidden.png").write_bytes(b"")
    (folder / ".git").mkdir()
    png(folder / ".git" / "b.png", gray)
    good = {
        "a.png",
        "deeper/still/a.png",
        "sixteen.png",
        "alpha.png",
        "one pixel.png",
        "COLOUR.JPG",
        "a.dcm",
        "no ending",
    }
    return folder, good, {"text.dcm", "empty.png", "cut.png", "huge.png", "huge.dcm"}


@pytest.fixture
def config(tiny_run, tmp_path):
    return replace(tiny_run, out=tmp_path / "out")


def table_of(config):
    return pd.read_csv(config.out / "predictions.csv", dtype={"image": str})


def images_of(config):
    return json.loads((config.out / "predictions.json").read_text())["images"]


# --- finding


def names_of(*paths, out="nowhere"):
    items, others = find_image_files(paths, out)
    assert all(item.path.is_absolute() for item in items)
    return [item.name for item in items], others


def test_images_are_found_in_nested_folders(messy):
    folder, good, bad = messy
    names, others = names_of(folder)
    assert set(names) == good | bad and names == sorted(names) and others == 1


def test_the_output_is_no_input(messy):
    folder, _, _ = messy
    png(folder / "out" / "overlays" / "a.png.png", xray())
    assert names_of(folder, out=folder / "out") == names_of(folder, out=str(folder / "out"))
    assert not [name for name in names_of(folder, out=folder / "out")[0] if name.startswith("out")]


def test_several_paths_get_distinct_names(tmp_path):
    for name in ("x/a.png", "x/z/b.png", "y/a.png"):
        png(tmp_path / name, xray())
    assert names_of(tmp_path / "x", tmp_path / "y")[0] == ["x/a.png", "x/z/b.png", "y/a.png"]
    assert names_of(tmp_path / "x", tmp_path / "x" / "a.png")[0] == ["a.png", "z/b.png"]
    assert names_of(tmp_path / "x" / "a.png")[0] == ["a.png"]


def test_a_file_that_is_named_is_taken_whatever_it_is(messy):
    folder, _, _ = messy
    assert names_of(folder / "notes.txt", folder / ".hidden.png")[0] == [".hidden.png", "notes.txt"]


def test_things_that_are_no_files(tmp_path):
    png(tmp_path / "a.png", xray())
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "nowhere.png").symlink_to(tmp_path / "gone")
    assert names_of(tmp_path) == (["a.png"], 2)


@pytest.mark.parametrize(
    "make, sentence",
    [
        (lambda p: p / "gone", "gone does not exist: --images takes files and folders"),
        (lambda p: p, "there is no DICOM, PNG or JPEG file in"),
    ],
)
def test_nothing_to_predict(tmp_path, make, sentence):
    with pytest.raises(InputError, match=sentence):
        find_image_files([make(tmp_path)], tmp_path / "out")


# --- reading


@pytest.fixture(scope="module")
def reader():
    reader = Reader(seconds=60)
    yield reader
    reader.close()


def test_a_picture_goes_the_way_of_step_two(reader, messy):
    folder, good, _ = messy
    for name in sorted(good):
        picture = reader.read(folder / name, [64, 48])
        image, header = read_image(folder / name)
        assert np.array_equal(picture.network, resize(resize(image, 64), 48)), name
        assert (picture.width, picture.height) == (header.width, header.height)
        assert np.array_equal(picture.shown, image) and picture.dicom == (
            name in ("a.dcm", "no ending")
        )
        assert picture.deep is None


@pytest.mark.parametrize(
    "name, reason",
    [
        ("text.dcm", "is neither a DICOM, PNG nor JPEG file"),
        ("empty.png", "the file is empty"),
        ("cut.png", "cannot be decoded"),
        ("huge.png", "states 9000 x 9000 pixels, and more than 50 million are not read"),
        ("huge.dcm", "states 65000 x 65000 pixels"),
    ],
)
def test_files_that_are_refused(reader, messy, name, reason):
    with pytest.raises(InputError, match=f"{name}: {reason}"):
        reader.read(messy[0] / name, [64])


def test_a_picture_that_would_fill_any_memory(reader, tmp_path):
    with pytest.raises(InputError, match="bomb.png: cannot be decoded .*10000000000 pixels"):
        reader.read(huge_png(tmp_path / "bomb.png", 100_000), [64])


def test_large_pictures_are_shown_smaller(reader, tmp_path):
    picture = reader.read(png(tmp_path / "wide.png", xray(3000, 100)), [64])
    assert picture.shown.shape == (43, 1280) and (picture.width, picture.height) == (3000, 100)


def test_a_file_that_takes_too_long(tmp_path, messy):
    """Nobody writes into the pipe, so opening it never ends. The next file is read as if nothing had been."""
    os.mkfifo(tmp_path / "pipe.dcm")
    reader = Reader(seconds=60)
    try:
        reader.read(messy[0] / "a.png", [64])
        reader.seconds = 0.3
        with pytest.raises(InputError, match="pipe.dcm: took more than 0.3 seconds to decode"):
            reader.read(tmp_path / "pipe.dcm", [64])
        reader.seconds = 60
        assert reader.read(messy[0] / "a.png", [64]).width == 96
    finally:
        reader.close()


def test_a_file_that_kills_the_decoder(tmp_path, messy):
    os.mkfifo(tmp_path / "pipe.dcm")
    reader = Reader(seconds=60)
    try:
        reader.read(messy[0] / "a.png", [64])
        threading.Timer(0.3, reader.process.kill).start()
        with pytest.raises(InputError, match="pipe.dcm: crashes the decoder"):
            reader.read(tmp_path / "pipe.dcm", [64])
        assert reader.read(messy[0] / "a.png", [64]).height == 128
    finally:
        reader.close()


def test_many_files_come_back_in_order(messy):
    folder, good, bad = messy
    names = sorted(good | bad) * 2
    results = list(read_all([folder / name for name in names], [64], workers=2))
    assert [isinstance(result, InputError) for result in results] == [name in bad for name in names]
    assert list(read_all([], [64], workers=1)) == []


@pytest.mark.parametrize("photometric, inverse", [("MONOCHROME2", False), ("MONOCHROME1", True)])
def test_deep_values(tmp_path, photometric, inverse):
    values = (xray().astype(np.int16) * 8 - 500).astype(np.int16)
    dataset = make_dataset(
        values,
        bits=12,
        PhotometricInterpretation=photometric,
        RescaleSlope=2,
        RescaleIntercept=-10,
        WindowCenter=[300, 1],
        WindowWidth=[900, 2],
        PixelPaddingValue=-500,
    )
    deep = read_deep(save(tmp_path / "x.dcm", dataset), 1000)
    padded = values == -500
    found = deep.low + deep.step * deep.stored
    assert np.abs(found - (2.0 * values - 10))[~padded].max() < deep.step
    black = found[~padded].max() if inverse else found[~padded].min()
    assert np.allclose(found[padded], black, atol=deep.step) and padded.any()
    assert (deep.centre, deep.width, deep.inverse) == (300, 900, inverse)


@pytest.mark.parametrize(
    "pixels, bits", [(xray(), 8), (np.dstack([xray()] * 3), 8), (xray().astype(np.uint16), 8)]
)
def test_eight_bits_have_no_deep_values(tmp_path, pixels, bits):
    assert read_deep(save(tmp_path / "x.dcm", make_dataset(pixels, bits)), 1000) is None
    assert read_deep(png(tmp_path / "x.png", xray().astype(np.uint16)), 1000) is None


def test_deep_values_of_a_constant_picture(tmp_path):
    deep = read_deep(
        save(tmp_path / "x.dcm", make_dataset(np.full((5, 6), 700, np.uint16), bits=12)), 3
    )
    assert (
        deep.stored.shape == (2, 3) and deep.low == 700 and deep.width > 0 and not deep.stored.any()
    )


# --- the whole way


def test_a_messy_folder(config, messy, capsys):
    folder, good, bad = messy
    page = predict_images(TASK, replace(config, images=(str(folder),)))
    table, images = table_of(config), images_of(config)
    assert set(table.image) == good == {image["image"] for image in images}
    assert table.columns.tolist() == [
        "image",
        "path",
        "width",
        "height",
        "finding",
        "score",
        "above_threshold",
        "x1",
        "y1",
        "x2",
        "y2",
        "probability of none",
        "probability of other",
        "probability of box",
    ]
    boxes = table.dropna(subset="score")
    assert (
        (boxes.x1 >= 0) & (boxes.x2 <= boxes.width) & (boxes.y1 >= 0) & (boxes.y2 <= boxes.height)
    ).all()
    assert (
        (boxes.score > 0.12) == boxes.above_threshold.astype(bool)
    ).all() and boxes.above_threshold.any()
    assert np.allclose(table.filter(like="probability").sum(axis=1), 1, atol=1e-4)
    flat = [
        (image["image"], box["finding"], box["score"], box["x2"])
        for image in images
        for box in image["boxes"]
    ]
    assert flat == list(
        boxes[["image", "finding", "score", "x2"]].itertuples(index=False, name=None)
    )
    failed = pd.read_csv(config.out / "failed.csv")
    assert set(failed.image) == bad and failed.reason.str.len().between(10, 400).all()
    text = page.read_text()
    for name in good:
        overlay = cv2.imread(str(config.out / "overlays" / f"{name}.png"))
        assert overlay is not None and max(overlay.shape) == 640 and name in text
    assert (
        all(name in text for name in bad)
        and "Not for diagnosis" in text
        and "http" not in text.replace("http://www.w3.org", "")
    )
    assert (
        "13 images, 0 of them done before; 1 other files were left alone" in capsys.readouterr().out
    )


def test_boxes_are_drawn_where_the_table_says(config, tmp_path):
    """The overlay differs from the picture along the edges of the boxes above their threshold."""
    images = png(tmp_path / "in" / "a.png", xray(400, 800)).parent
    predict_images(TASK, replace(config, images=(str(images),)))
    overlay = cv2.imread(str(config.out / "overlays" / "a.png.png"))
    assert overlay.shape == (800, 400, 3)
    coloured = (overlay.max(-1) - overlay.min(-1)) > 60
    marked = [box for box in images_of(config)[0]["boxes"] if box["above_threshold"]]
    assert marked
    for box in marked:
        x1, y1, x2, y2 = (round(box[name]) for name in ("x1", "y1", "x2", "y2"))
        for y in (y1, min(y2, 799)):  # the notice and labels may hide a part
            assert coloured[max(0, y - 3) : y + 3, max(0, x1) + 6 : x2 - 6].any(0).mean() > 0.3


def test_a_picture_of_other_proportions_gives_the_same_boxes(config, tmp_path):
    """As in step 02 the sides are not kept in proportion: stretched pictures have stretched boxes."""
    image = xray(64, 64)
    png(tmp_path / "in" / "a.png", image)
    png(tmp_path / "in" / "b.png", np.repeat(np.repeat(image, 3, axis=0), 2, axis=1))
    predict_images(TASK, replace(config, images=(str(tmp_path / "in"),)))
    one, other = (image["boxes"] for image in images_of(config))
    assert one and len(one) == len(other)
    for a, b in zip(one, other):
        assert a["score"] == pytest.approx(b["score"], abs=1e-4)
        assert [2 * a["x1"], 3 * a["y1"], 2 * a["x2"], 3 * a["y2"]] == pytest.approx(
            [b[name] for name in ("x1", "y1", "x2", "y2")], abs=0.1
        )


def stamps(config):
    return {path: path.stat().st_mtime_ns for path in (config.out / "boxes").rglob("*.json")}


def test_what_is_done_is_kept(config, messy, monkeypatch, capsys):
    folder, good, bad = messy
    wanted = replace(config, images=(str(folder),))
    predict_images(TASK, wanted)
    before, table = stamps(config), table_of(config)
    (folder / "cut.png").write_bytes((folder / "a.png").read_bytes())  # repaired
    png(folder / "a.png", xray(50, 60))  # another image in its place
    predict_images(TASK, wanted)
    changed = {path.name for path, stamp in stamps(config).items() if before.get(path) != stamp}
    assert (
        changed == {"a.png.json", "cut.png.json"}
        and (config.out / "boxes" / "a.png.json") not in before.items()
    )
    assert set(table_of(config).image) == set(table.image) | {"cut.png"}
    for name in bad - {"cut.png"}:
        (folder / name).unlink()
    monkeypatch.setattr(
        Predictor, "models", property(lambda self: pytest.fail("nothing is to be predicted"))
    )
    predict_images(TASK, wanted)
    assert "9 images, 9 of them done before" in capsys.readouterr().out


class Killed(BaseException):
    pass


@pytest.fixture(scope="module")
def whole_table(tiny_run, tmp_path_factory):
    """(folder of five images, predictions.csv of a run over them that nothing disturbed)."""
    folder = tmp_path_factory.mktemp("whole")
    for seed in range(5):
        png(folder / "in" / f"{seed}.png", xray(seed=seed))
    config = replace(tiny_run, images=(str(folder / "in"),), out=folder / "out")
    predict_images(TASK, config)
    return folder / "in", table_of(config)


@pytest.mark.parametrize(
    "function, call", [("write_record", 1), ("write_overlay", 4), ("write_prediction_tables", 1)]
)
def test_a_killed_run_goes_on(config, whole_table, monkeypatch, function, call):
    folder, whole = whole_table
    wanted = replace(config, images=(str(folder),))
    original, calls = getattr(flow, function), itertools.count(1)

    def killer(*args):
        if next(calls) == call:
            raise Killed
        return original(*args)

    with monkeypatch.context() as patch:
        patch.setattr(flow, function, killer)
        with pytest.raises(Killed):
            predict_images(TASK, wanted)
    kept = stamps(config)
    assert (
        len(kept) == {"write_prediction_tables": 5}.get(function, call - 1)
        and not (config.out / "index.html").exists()
    )
    predict_images(TASK, wanted)
    assert all(stamps(config)[path] == stamp for path, stamp in kept.items())
    pd.testing.assert_frame_equal(table_of(config), whole, atol=0.02, rtol=1e-3)
    assert not list(config.out.rglob("*.tmp*"))


def test_other_settings_need_another_folder(config, tmp_path):
    png(tmp_path / "in" / "a.png", xray())
    wanted = replace(config, images=(str(tmp_path / "in"),))
    predict_images(TASK, wanted)
    with pytest.raises(InputError, match="made with other tta: choose another --out"):
        predict_images(TASK, replace(wanted, tta="none"))
    with pytest.raises(InputError, match="made with other checkpoints"):
        predict_images(TASK, replace(wanted, fold=1))


def test_one_fold_and_its_kept_epochs(config):
    every, one = Predictor(TASK, config), Predictor(TASK, replace(config, fold=1, checkpoints=1))
    assert [f"{path.parent.name}/{path.name}" for path in every.paths] == [
        f"fold{k}/epoch00{n}.pt" for k in (0, 1) for n in (1, 2)
    ]
    assert [path.parent.name for path in one.paths] == ["fold1"]


def test_no_run(config, tmp_path):
    png(tmp_path / "a.png", xray())
    with pytest.raises(
        InputError,
        match=r"gone holds no trained fold: name a trained run by --run \(there are: run\)",
    ):
        predict_images(TASK, replace(config, run="gone", images=(str(tmp_path),)))
    assert not config.out.exists()


def test_without_step_05_plain_thresholds_and_a_note(config, tmp_path, capsys):
    working = link_tree(config.working, tmp_path / "working", "params.json")
    png(tmp_path / "in" / "a.png", xray())
    wanted = replace(config, working=working, images=(str(tmp_path / "in"),))
    page = predict_images(TASK, wanted)
    content = json.loads((config.out / "predictions.json").read_text())
    assert content["thresholds"] == {"box": 0.1} and "step 05 was not run" in content["notes"][0]
    assert (
        "step 05 was not run" in page.read_text()
        and "step 05 was not run" in capsys.readouterr().out
    )


@pytest.mark.parametrize(
    "content", [{"threshold": {"Nodule": 0.3}, "nms_iou": 0.5}, {"no such": 1}, [1]]
)
def test_parameters_of_something_else(config, tmp_path, content):
    working = link_tree(config.working, tmp_path / "working", "params.json")
    write_json(working / "tiny" / "run" / "params.json", content)
    with pytest.raises(
        InputError, match="params.json does not fit this run .*: run 05_postprocess.py again"
    ):
        Predictor(TASK, replace(config, working=working))


def test_a_run_that_was_moved_alone(config, tmp_path):
    """Without the folder of step 02 the side of its pictures comes from the run."""
    working = link_tree(config.working, tmp_path / "working", "preprocess.json")
    assert Predictor(TASK, config).sides == [64, 192]
    assert Predictor(TASK, replace(config, working=working)).sides == [512, 192]


def test_nothing_can_be_read(config, messy):
    folder, _, bad = messy
    with pytest.raises(
        InputError, match="none of 2 images could be read, see .*failed.csv; the first: "
    ):
        predict_images(
            TASK, replace(config, images=(str(folder / "cut.png"), str(folder / "text.dcm")))
        )
    assert (
        len(pd.read_csv(config.out / "failed.csv")) == 2
        and images_of(config) == []
        and table_of(config).empty
    )


def test_torchrun_is_refused(config, messy, monkeypatch):
    monkeypatch.setenv("RANK", "0")
    with pytest.raises(InputError, match="start it without torchrun"):
        predict_images(TASK, replace(config, images=(str(messy[0]),)))


def test_a_task_without_boxes(config):
    class Other:
        name = "other"

    with pytest.raises(InputError, match="other does not look for boxes"):
        Predictor(Other(), config)


def test_strange_names(config, tmp_path):
    """Names with quotes, markup and bytes that are no text reach the tables and the page unharmed."""
    names = [
        'say "hi", <b>.png',
        "ünï.png",
        "new\nline.png",
        "100%#?.png",
        os.fsdecode(b"bytes\xff.png"),
    ]
    for name in names:
        png(tmp_path / "in" / name, xray())
    page = predict_images(TASK, replace(config, images=(str(tmp_path / "in"),))).read_text()
    with open(config.out / "predictions.csv", newline="", encoding="utf-8") as file:
        seen = {row["image"] for row in csv.DictReader(file)}
    assert seen == {name.encode("utf-8", "replace").decode() for name in names}
    assert (
        "<b>.png" not in page
        and "overlays/100%25%23%3F.png.png" in page
        and "overlays/bytes%FF.png.png" in page
    )


@pytest.mark.skipif(not ODD.is_dir(), reason=f"no odd DICOMs at {ODD} (CXR_SHARED_DATA)")
def test_forty_odd_dicoms(config):
    predict_images(
        TASK, replace(config, images=(str(ODD),), dicom_sr=True, workers=2, batch_size=8)
    )
    failed = pd.read_csv(config.out / "failed.csv")
    assert len(failed) == 6 and set(failed.what) == {"image"} and len(images_of(config)) == 34
    for image in images_of(config):
        assert (config.out / image["structured_report"]).is_file()


def expected_boxes(candidates, params):
    boxes, scores, _ = detect_labelled(candidates, params, TASKS["rsna"].gate_weights)
    return boxes, scores


def test_the_same_as_steps_02_04_and_05(pipeline, tmp_path):
    """The test images' DICOMs, given as a plain folder, get the boxes of the submission."""
    images = pipeline.source / "stage_2_test_images"
    status, printed = run_here("04_predict", *pipeline.flags, "--images", images, "--out", tmp_path)
    assert status == 0, printed
    found = {
        image["image"].removesuffix(".dcm"): image for image in images_of(replace_out(tmp_path))
    }
    params = Params(**json.loads((pipeline.run / "params.json").read_text()))
    usual = list(read_predictions(pipeline.run / "test_predictions", TASKS["rsna"].kind))
    assert {candidates.image_id for candidates in usual} == found.keys()
    for candidates in usual:
        image = found[candidates.image_id]
        assert list(image["probabilities"].values()) == pytest.approx(
            candidates.category.tolist(), abs=1e-4
        )
        for params_used, kept in ((params, True), (replace(params, threshold=0.0), False)):
            boxes, scores = expected_boxes(candidates, params_used)
            own = [box for box in image["boxes"] if box["above_threshold"] or not kept]
            assert [box["score"] for box in own] == pytest.approx(
                scores[: len(own)].tolist(), abs=1e-4
            )
            assert len(own) == len(scores) if kept else len(own) == min(50, len(scores))
            corners = np.array(
                [[box[name] for name in ("x1", "y1", "x2", "y2")] for box in own]
            ).reshape(-1, 4)
            assert np.abs(corners - boxes[: len(own)]).max(initial=0) < 0.1
    submission = (
        pd.read_csv(pipeline.run / "submission.csv")
        .fillna("")
        .set_index("patientId")
        .PredictionString
    )
    assert {key: len(text.split()) // 5 for key, text in submission.items()} == {
        key: sum(box["above_threshold"] for box in image["boxes"]) for key, image in found.items()
    }


def replace_out(folder):
    """Something whose `out` is the folder, for images_of."""
    return type("Config", (), {"out": folder})
