"""ChestX-Det10: many classes in one network, zips put there by hand, and the five steps."""

import json
import os
import shutil
import zipfile
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from steps import ROOT, STEPS, digest, link_tree, protect, run_here

from cxr.data.batch import Batch, Sample, collate
from cxr.data.tables import read_table
from cxr.datasets.chestxdet.files import FINDINGS, read_chestxdet
from cxr.datasets.chestxdet.synthetic import write_chestxdet
from cxr.run_folder import RunFolder
from cxr.settings import PlaceSettings
from cxr.steps.download import download
from cxr.steps.train.engine import refuse_other_settings
from cxr.system.errors import InputError
from cxr.tasks import TASKS

SHARED = Path(os.environ.get("CXR_SHARED_DATA", ROOT.parent / "shared" / "data"))
TASK = TASKS["chestxdet"]
SLUG = TASK.dataset.slug
SIDE = 192
TINY = (
    *("--task", "chestxdet", "--run", "tiny", "--folds", "2", "--epochs", "2"),
    *("--batch-size", "2", "--keep", "2", "--channels", "16", "--image-size", f"{SIDE}"),
    *("--workers", "0", "--device", "cpu"),
)
needs_sample = pytest.mark.skipif(
    not (SHARED / SLUG).is_dir(), reason=f"no real sample in {SHARED / SLUG}"
)

# ------------------------------------------------------------------------------- classes


def small_settings(classes, **changes):
    """Settings of a network that is built in no time."""
    values = {
        "classes": classes,
        "encoder": "resnet18",
        "weights": "none",
        "levels": "3-5",
        "channels": 16,
        "head_convs": 1,
        "image_size": SIDE,
    }
    return TASK.settings_of(values | changes)


def build_model(settings):
    return TASK.method.build_model(settings, TASK.used_labels(settings))


def test_nine_or_ten_classes(tmp_path):
    write_chestxdet(tmp_path / SLUG, n_train=8, n_test=3, seed=3, side=96)
    table = read_chestxdet(tmp_path / SLUG).train
    pneumothorax = table[:1].assign(
        image_id="p", boxes="[[1, 2, 30, 40]]", box_labels="[9]", n_boxes=1, label=1
    )
    table = pd.concat([table, pneumothorax])
    of_nine = small_settings(9)
    assert FINDINGS[9] == "Pneumothorax"
    assert TASK.used_labels(of_nine).classes == FINDINGS[:9]
    nine = TASK.select_rows(table, of_nine)
    ten = TASK.select_rows(table, small_settings(10))
    assert ten["n_boxes"].tolist() == table["n_boxes"].tolist()
    assert nine["n_boxes"].iloc[-1] == 0
    assert nine["label"].iloc[-1] == 0

    for (_, row), (_, row_of_nine) in zip(table.iterrows(), nine.iterrows(), strict=True):
        kept = [label for label in json.loads(row["box_labels"]) if label < 9]
        assert json.loads(row_of_nine["box_labels"]) == kept
        assert len(json.loads(row_of_nine["boxes"])) == len(kept)
        assert row_of_nine["n_boxes"] == len(kept)


def test_there_are_ten_classes():
    settings = small_settings(11)
    with pytest.raises(InputError, match="--classes 11 does not fit chestxdet: choose 1 to 10"):
        TASK.check(settings)


def make_sample(boxes, labels, label, settings):
    return Sample(
        image=torch.zeros(1),
        boxes=boxes,
        labels=labels,
        label=label,
        row=0,
        target=TASK.method.make_target(settings)(boxes, labels),
    )


@pytest.mark.parametrize("classes", [9, 10])
def test_network_and_loss_of_many_classes(classes):
    settings = small_settings(classes, global_weight=0.0)
    model = build_model(settings)
    outputs = model(torch.zeros(2, 1, SIDE, SIDE, dtype=torch.uint8))
    assert outputs["scores"].shape == (2, len(model.anchors), classes)
    boxes = torch.tensor([[20.0, 20, 90, 100], [30, 110, 90, 160]])
    labels = torch.tensor([0, classes - 1])
    with_boxes = make_sample(boxes, labels, 1, settings)
    without_boxes = make_sample(boxes[:0], labels[:0], 0, settings)
    batch = collate([with_boxes, without_boxes])
    assert set(batch.target["positive_label"].tolist()) == {0, classes - 1}
    for name, term in TASK.method.loss(outputs, batch, model, settings).items():
        assert torch.isfinite(term), name


def test_two_findings_in_one_place_are_both_found():
    """The same anchor speaks for two classes: both boxes come out, although one class alone would
    have been kept."""
    settings = small_settings(9)
    model = build_model(settings)
    scores = torch.full((1, len(model.anchors), 9), -9.0)
    scores[0, 700, 0] = 2.0
    scores[0, 700, 2] = 1.0
    outputs = {"scores": scores, "deltas": torch.zeros(1, len(model.anchors), 4)}
    batch = Batch(
        images=torch.zeros(1, 1, SIDE, SIDE),
        boxes=torch.zeros(1, 1, 4),
        labels=torch.tensor([[-1]]),
        image_labels=torch.tensor([1]),
        rows=torch.tensor([4]),
    )
    quick = TASK.method.quick_predictions(outputs, batch, model, settings)[4]
    assert quick.side == SIDE
    assert quick.detections.labels.tolist() == [0, 2]
    first_box, second_box = quick.detections.boxes
    assert np.array_equal(first_box, second_box)
    expected = [1 / (1 + np.exp(-2)), 1 / (1 + np.exp(-1))]
    assert quick.detections.scores == pytest.approx(expected)


# ------------------------------------------------------------------------------- step 01


def write_set(folder):
    """A training set of one picture of 64 x 64 with a nodule."""
    (folder / "train_data").mkdir(parents=True)
    entry = {"file_name": "a.png", "syms": ["Nodule"], "boxes": [[1, 2, 30, 40]]}
    (folder / "train.json").write_text(json.dumps([entry]))
    Image.new("L", (64, 64), 7).save(folder / "train_data" / "a.png")
    return folder


def obtain(root):
    return download.obtain(TASK.dataset, PlaceSettings(input=root), 7)


def test_download_tells_where_the_zips_belong(tmp_path, monkeypatch):
    monkeypatch.delenv("KAGGLE_KERNEL_RUN_TYPE", raising=False)
    with pytest.raises(InputError, match="not on Kaggle") as caught:
        obtain(tmp_path)
    for words in (
        "train_data.zip",
        "test_data.zip",
        "train.json",
        str(tmp_path / SLUG),
        "github.com/Deepwise-AILab/ChestX-Det10-Dataset",
        "--demo",
    ):
        assert words in str(caught.value)


@pytest.mark.parametrize("inside", ["", "train_data/", "a/b/"])
def test_zips_are_unpacked_once(tmp_path, monkeypatch, inside, capsys):
    monkeypatch.delenv("KAGGLE_KERNEL_RUN_TYPE", raising=False)
    folder = write_set(tmp_path / SLUG)
    with zipfile.ZipFile(folder / "train_data.zip", "w") as archive:
        archive.write(folder / "train_data" / "a.png", f"{inside}a.png")
        archive.writestr("__MACOSX/._a.png", b"")
    shutil.rmtree(folder / "train_data")
    assert obtain(tmp_path) == folder
    assert "unpacking" in capsys.readouterr().out
    assert [path.name for path in (folder / "train_data").glob("*.png")] == ["a.png"]
    assert not list(folder.glob(".*"))
    obtain(tmp_path)
    assert "unpacking" not in capsys.readouterr().out


@pytest.mark.parametrize(
    "content, words", [(b"PK half", "damaged or not complete"), (None, "holds no PNG files")]
)
def test_damaged_zips(tmp_path, content, words):
    folder = write_set(tmp_path / SLUG)
    if content:
        (folder / "test_data.zip").write_bytes(content)
    else:
        with zipfile.ZipFile(folder / "test_data.zip", "w") as archive:
            archive.writestr("readme.txt", "nothing")
    with pytest.raises(InputError, match=words):
        obtain(tmp_path)
    assert not (folder / "test_data").exists()


# ------------------------------------------------------------------------------- older runs


def test_runs_from_before_a_setting_existed_go_on(tmp_path):
    task = TASKS["rsna"]
    settings = task.settings_of({"run": "old", "working": tmp_path})
    folder = RunFolder.of(settings.place).fold(0)
    refuse_other_settings(folder, task, settings)
    record = settings.plain()
    del record["classes"]
    folder.write_config(record)
    refuse_other_settings(folder, task, settings)
    folder.write_config(record | {"classes": 1})
    with pytest.raises(InputError, match=r"other settings \(classes\)"):
        refuse_other_settings(folder, task, settings)


# ------------------------------------------------------------------------------- five steps


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory):
    """All five steps on 12 synthetic images: folders, flags, printed {step: text}."""
    root = tmp_path_factory.mktemp("chestxdet")
    folders = ("--input", root / "input", "--working", root / "working")
    flags = ("--demo", "--demo-images", "12", *TINY, *folders)
    printed = {}
    before = {}
    for step in STEPS:
        status, printed[step] = run_here(step, *flags)
        assert status == 0, printed[step]
        if step == STEPS[0]:
            protect(root / "input")
            before = digest(root / "input")
    assert digest(root / "input") == before
    task = root / "working" / "chestxdet"
    return SimpleNamespace(root=root, flags=flags, task=task, run=task / "tiny", printed=printed)


def test_every_file_is_there(pipeline):
    of_task = ("train.csv", "test.csv", "failed.csv")
    of_task += ("preprocess.json", "overview.png", "samples.png")
    for name in of_task:
        assert (pipeline.task / name).stat().st_size, name
    of_run = ("params.json", "results.json", "test_results.csv", "valid_results.csv")
    of_run += ("report.html", "gallery.png", "curves.png", "fold0/log.csv", "fold1/best.pt")
    for name in of_run:
        assert (pipeline.run / name).stat().st_size, name
    assert not list(pipeline.task.rglob("*.tmp*"))


def test_log_has_the_average_precision_of_each_class(pipeline):
    log = pd.read_csv(pipeline.run / "fold0" / "log.csv")
    columns = [name for name in log.columns if name.startswith("ap_")]
    assert columns == [f"ap_{name}" for name in FINDINGS[:9]]
    assert log["epoch"].tolist() == [1, 2]
    known = log[columns].mean(axis=1)  # leaves out classes without a true box, as the metric does
    assert np.allclose(known, log["metric"], equal_nan=True)


def as_eval_reads(content, finding):
    """Boxes (n, 5) of a finding as the data set's eval.py reads them from an image's file.

    By the name or its lower case.
    """
    boxes = []
    for entry in content:
        for name, box in entry.items():
            if name in (finding, finding.lower()):
                boxes.append(box)
    return boxes


def test_results_of_every_test_image_in_the_data_sets_format(pipeline):
    test = read_table(pipeline.task / "test.csv")
    table = pd.read_csv(pipeline.run / "test_results.csv")
    folder = pipeline.run / "test_results"
    assert {path.stem for path in folder.iterdir()} == set(test["image_id"])
    rows = []
    for image_id in test["image_id"]:
        content = json.loads((folder / f"{image_id}.json").read_text())
        for finding in FINDINGS:
            for box in as_eval_reads(content, finding):
                rows.append((f"{image_id}.png", finding, *box))
    assert rows
    columns = ["file_name", "finding", "x1", "y1", "x2", "y2", "score"]
    assert sorted(rows) == sorted(table[columns].itertuples(index=False, name=None))
    assert set(table["finding"]) <= set(FINDINGS[:9])


def test_results_json(pipeline):
    results = json.loads((pipeline.run / "results.json").read_text())
    assert results["n_images"] == 12
    assert results["test"]["n_images"] == 24
    assert set(results["ap"]) == set(FINDINGS[:9])
    known = [value for value in results["ap"].values() if value is not None]
    assert results["score"] == pytest.approx(np.mean(known))
    assert 0 <= results["avgrecall"] <= 1
    params = json.loads((pipeline.run / "params.json").read_text())
    assert set(params["threshold"]) == set(FINDINGS[:9])
    assert "constant guess" in results["baselines"]


def test_report_shows_classes_and_what_was_left_out(pipeline):
    page = (pipeline.run / "report.html").read_text(encoding="utf-8")
    for words in (
        "Each finding",
        "Consolidation",
        "AP: Effusion",
        "such as 99999.png",
        "have no area",
        "RGBA",
        "recall at",
        "Mean AP at IoU 0.5",
    ):
        assert words in page, words
    assert "score 0." in pipeline.printed["05_postprocess"]
    assert "test_results" in pipeline.printed["05_postprocess"]


WORDS_OF_SECOND_RUN = {
    "01_download": "already in",
    "02_preprocess": "is complete",
    "03_train": "nothing to do",
    "04_predict": "nothing to do",
    "05_postprocess": "results",
}


def test_second_run_does_nothing_and_ten_classes_are_another_run(pipeline, tmp_path):
    working = link_tree(pipeline.root / "working", tmp_path / "working")
    flags = (*pipeline.flags, "--working", working)
    for step in STEPS:
        status, text = run_here(step, *flags)
        assert status == 0, text
        assert WORDS_OF_SECOND_RUN[step] in text
    for step, further_flags, words in (
        ("03_train", ("--classes", "10"), "other settings (classes)"),
        ("05_postprocess", ("--submit", "words"), "no Kaggle competition"),
        ("03_train", ("--classes", "11", "--run", "eleven"), "choose 1 to 10"),
    ):
        status, text = run_here(step, *flags, *further_flags)
        assert status == 1
        assert words in text


@pytest.mark.sample
@needs_sample
def test_real_sample_through_all_steps(tmp_path):
    flags = (
        *TINY,
        *("--preset", "small", "--epochs", "1", "--size", "256"),
        *("--channels", "16", "--head-convs", "1"),
        *("--input", SHARED, "--working", tmp_path),
    )
    for step in STEPS:
        status, text = run_here(step, *flags)
        assert status == 0, text
    assert "No judged image has a true box of Nodule, Mass" in text
    task = tmp_path / "chestxdet"
    train = read_table(task / "train.csv")
    assert len(train) == 32
    assert train["n_boxes"].sum() == 58
    results = json.loads((task / "tiny" / "results.json").read_text())
    assert results["n_images"] == 32
    assert "test" not in results
    assert results["ap"]["Nodule"] is None, "no image of the sample has a nodule"
    files = (task / "tiny" / "valid_results").iterdir()
    assert {path.stem for path in files} == set(train["image_id"])
