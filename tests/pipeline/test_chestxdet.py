"""ChestX-Det10: its files read and refused, folds by findings, results in its own format, all five steps."""

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

from cxr.config import Config
from cxr.data.batch import collate
from cxr.datasets.chestxdet.files import FINDINGS, read_chestxdet
from cxr.datasets.chestxdet.synthetic import write_chestxdet
from cxr.settings import PlaceSettings
from cxr.steps.download import download
from cxr.steps.train import engine
from cxr.system.errors import InputError
from cxr.tasks import TASKS

SHARED = Path(os.environ.get("CXR_SHARED_DATA", ROOT.parent / "shared" / "data"))
TASK = TASKS["chestxdet"]
TINY = (
    "--task",
    "chestxdet",
    "--run",
    "tiny",
    "--folds",
    "2",
    "--epochs",
    "2",
    "--batch-size",
    "2",
    "--keep",
    "2",
    "--channels",
    "16",
    "--image-size",
    "192",
    "--workers",
    "0",
    "--device",
    "cpu",
)
needs_sample = pytest.mark.skipif(
    not (SHARED / TASK.slug).is_dir(), reason=f"no real sample in {SHARED / TASK.slug}"
)


@pytest.fixture(scope="module")
def synthetic(tmp_path_factory):
    folder = tmp_path_factory.mktemp("synthetic") / TASK.slug
    assert write_chestxdet(folder, n_train=8, n_test=3, seed=3, side=96)
    return folder


def entry(name, *findings):
    """An entry of train.json from (finding, x1, y1, x2, y2)."""
    return {
        "file_name": name,
        "syms": [f[0] for f in findings],
        "boxes": [list(f[1:]) for f in findings],
    }


def write_set(folder, entries, images=None, mode="L"):
    (folder / "train_data").mkdir(parents=True)
    (folder / "train.json").write_text(entries if isinstance(entries, str) else json.dumps(entries))
    for name in images if images is not None else [e["file_name"] for e in entries]:
        Image.new(mode, (64, 64), 7).save(folder / "train_data" / name)
    return folder


BOX = ("Nodule", 1, 2, 30, 40)


def test_nine_or_ten_classes(synthetic):
    table = read_chestxdet(synthetic)[0]
    table = pd.concat(
        [
            table,
            table[:1].assign(
                image_id="p", boxes="[[1, 2, 30, 40]]", box_labels="[9]", n_boxes=1, label=1
            ),
        ]
    )
    nine, ten = (TASK.select(table, Config(classes=count)) for count in (9, 10))
    assert TASK.used_classes(Config(classes=9)) == FINDINGS[:9] and FINDINGS[9] == "Pneumothorax"
    assert (
        ten.n_boxes.tolist() == table.n_boxes.tolist()
        and nine.n_boxes.iloc[-1] == 0
        and nine.label.iloc[-1] == 0
    )
    kept = [[k for k in json.loads(text) if k < 9] for text in table.box_labels]
    assert [json.loads(text) for text in nine.box_labels] == kept
    assert (
        [len(json.loads(text)) for text in nine.boxes]
        == nine.n_boxes.tolist()
        == [len(own) for own in kept]
    )
    with pytest.raises(InputError, match="--classes 11 does not fit chestxdet: choose 1 to 10"):
        TASK.used_classes(Config(classes=11))


@pytest.mark.parametrize("classes", [9, 10])
def test_network_and_loss_of_many_classes(classes):
    config = Config(
        task="chestxdet",
        classes=classes,
        encoder="resnet18",
        weights="none",
        levels="3-5",
        channels=16,
        head_convs=1,
        image_size=192,
        global_weight=0.0,
    )
    model = TASK.build_model(config)
    outputs = model(torch.zeros(2, 1, 192, 192, dtype=torch.uint8))
    assert outputs["scores"].shape == (2, len(model.anchors), classes)
    boxes, labels = (
        torch.tensor([[20.0, 20, 90, 100], [30, 110, 90, 160]]),
        torch.tensor([0, classes - 1]),
    )
    batch = collate(
        [
            {
                "image": torch.zeros(1),
                "boxes": boxes[:n],
                "labels": labels[:n],
                "label": label,
                "index": 0,
                **TASK.targets(config)(boxes[:n], labels[:n]),
            }
            for n, label in ((2, 1), (0, 0))
        ]
    )
    assert set(batch["positive_label"].tolist()) == {0, classes - 1}
    assert all(
        np.isfinite(float(term)) for term in TASK.loss(outputs, batch, model, config).values()
    )


def test_two_findings_in_one_place_are_both_found():
    """The same anchor speaks for two classes: both boxes come out, although one class alone would have been kept."""
    config = Config(
        task="chestxdet",
        classes=9,
        encoder="resnet18",
        weights="none",
        levels="3-5",
        channels=16,
        head_convs=1,
        image_size=192,
    )
    model = TASK.build_model(config)
    scores = torch.full((1, len(model.anchors), 9), -9.0)
    scores[0, 700, 0], scores[0, 700, 2] = 2.0, 1.0
    outputs = {"scores": scores, "deltas": torch.zeros(1, len(model.anchors), 4)}
    batch = {"index": torch.tensor([4]), "image": torch.zeros(1, 1, 192, 192)}
    boxes, confidence, labels, side = TASK.quick_predictions(outputs, batch, model)[4]
    assert labels.tolist() == [0, 2] and side == 192 and np.array_equal(boxes[0], boxes[1])
    assert confidence == pytest.approx([1 / (1 + np.exp(-2)), 1 / (1 + np.exp(-1))])


def test_download_tells_where_the_zips_belong(tmp_path, monkeypatch):
    monkeypatch.delenv("KAGGLE_KERNEL_RUN_TYPE", raising=False)
    with pytest.raises(InputError, match="not on Kaggle") as caught:
        download.obtain(TASK.dataset, PlaceSettings(input=tmp_path), 7)
    text = str(caught.value)
    assert all(
        words in text
        for words in (
            "train_data.zip",
            "test_data.zip",
            "train.json",
            str(tmp_path / TASK.slug),
            "github.com/Deepwise-AILab/ChestX-Det10-Dataset",
            "--demo",
        )
    )


@pytest.mark.parametrize("inside", ["", "train_data/", "a/b/"])
def test_zips_are_unpacked_once(tmp_path, monkeypatch, inside, capsys):
    monkeypatch.delenv("KAGGLE_KERNEL_RUN_TYPE", raising=False)
    folder = write_set(tmp_path / TASK.slug, [entry("a.png", BOX)])
    with zipfile.ZipFile(folder / "train_data.zip", "w") as archive:
        archive.write(folder / "train_data" / "a.png", f"{inside}a.png")
        archive.writestr("__MACOSX/._a.png", b"")
    shutil.rmtree(folder / "train_data")
    assert download.obtain(TASK.dataset, PlaceSettings(input=tmp_path), 7) == folder
    assert [path.name for path in (folder / "train_data").iterdir() if path.suffix == ".png"] == [
        "a.png"
    ]
    assert not list(folder.glob(".*")) and "unpacking" in capsys.readouterr().out
    download.obtain(TASK.dataset, PlaceSettings(input=tmp_path), 7)
    assert "unpacking" not in capsys.readouterr().out


@pytest.mark.parametrize(
    "content, words", [(b"PK half", "damaged or not complete"), (None, "holds no PNG files")]
)
def test_damaged_zips(tmp_path, content, words):
    folder = write_set(tmp_path / TASK.slug, [entry("a.png", BOX)])
    if content:
        (folder / "test_data.zip").write_bytes(content)
    else:
        with zipfile.ZipFile(folder / "test_data.zip", "w") as archive:
            archive.writestr("readme.txt", "nothing")
    with pytest.raises(InputError, match=words):
        download.obtain(TASK.dataset, PlaceSettings(input=tmp_path), 7)
    assert not (folder / "test_data").exists()


def test_runs_from_before_a_setting_existed_go_on(tmp_path):
    config = Config(task="rsna", run="old", working=tmp_path)
    folder = config.fold_dir(0)
    assert engine.prepare_folder(folder, TASKS["rsna"], config, True) is False
    old = json.loads((folder / "config.json").read_text())
    del old["classes"]
    (folder / "config.json").write_text(json.dumps(old))
    assert engine.prepare_folder(folder, TASKS["rsna"], config, True) is False
    (folder / "config.json").write_text(json.dumps(old | {"classes": 1}))
    with pytest.raises(InputError, match="other settings"):
        engine.prepare_folder(folder, TASKS["rsna"], config, True)


def as_eval_reads(folder, name, finding):
    """Boxes (n, 5) of a finding as the data set's eval.py reads them: by the name or its lower case."""
    content = json.loads((folder / f"{name}.json").read_text())
    return [
        value
        for entry in content
        for key, value in entry.items()
        if key in (finding, finding.lower())
    ]


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory):
    """All five steps on 12 synthetic images."""
    root = tmp_path_factory.mktemp("chestxdet")
    flags = (
        "--demo",
        "--demo-images",
        "12",
        *TINY,
        "--input",
        root / "input",
        "--working",
        root / "working",
    )
    printed, before = {}, {}
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
    for name in (
        "train.csv",
        "test.csv",
        "failed.csv",
        "preprocess.json",
        "overview.png",
        "samples.png",
    ):
        assert (pipeline.task / name).stat().st_size, name
    for name in (
        "params.json",
        "results.json",
        "test_results.csv",
        "valid_results.csv",
        "report.html",
        "gallery.png",
        "curves.png",
        "fold0/log.csv",
        "fold1/best.pt",
    ):
        assert (pipeline.run / name).stat().st_size, name
    assert not list(pipeline.task.rglob("*.tmp*"))


def test_log_has_the_average_precision_of_each_class(pipeline):
    log = pd.read_csv(pipeline.run / "fold0" / "log.csv")
    columns = [name for name in log.columns if name.startswith("ap_")]
    assert columns == [f"ap_{name}" for name in FINDINGS[:9]] and log.epoch.tolist() == [1, 2]
    known = log[columns].mean(axis=1)  # leaves out classes without a true box, as the metric does
    assert np.allclose(known, log.metric, equal_nan=True)


def test_results_of_every_test_image_in_the_data_sets_format(pipeline):
    test, table = (
        pd.read_csv(pipeline.task / "test.csv"),
        pd.read_csv(pipeline.run / "test_results.csv"),
    )
    folder = pipeline.run / "test_results"
    assert {path.stem for path in folder.iterdir()} == set(test.image_id.astype(str))
    rows = [
        (f"{name}.png", finding, *box)
        for name in test.image_id
        for finding in FINDINGS
        for box in as_eval_reads(folder, name, finding)
    ]
    columns = ["file_name", "finding", "x1", "y1", "x2", "y2", "score"]
    assert sorted(rows) == sorted(table[columns].itertuples(index=False, name=None)) and len(rows)
    assert set(table.finding) <= set(FINDINGS[:9])


def test_results_json(pipeline):
    results = json.loads((pipeline.run / "results.json").read_text())
    assert (
        results["n_images"] == 12
        and set(results["ap"]) == set(FINDINGS[:9])
        and results["test"]["n_images"] == 24
    )
    known = [value for value in results["ap"].values() if value is not None]
    assert results["score"] == pytest.approx(np.mean(known)) and 0 <= results["avgrecall"] <= 1
    assert set(json.loads((pipeline.run / "params.json").read_text())["threshold"]) == set(
        FINDINGS[:9]
    )
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
    assert (
        "score 0." in pipeline.printed["05_postprocess"]
        and "test_results" in pipeline.printed["05_postprocess"]
    )


def test_second_run_does_nothing_and_ten_classes_are_another_run(pipeline, tmp_path):
    working = link_tree(pipeline.root / "working", tmp_path / "working")
    flags = (*pipeline.flags, "--working", working)
    for step, words in zip(
        STEPS, ("already in", "is complete", "nothing to do", "nothing to do", "results")
    ):
        status, text = run_here(step, *flags)
        assert status == 0 and words in text, text
    status, text = run_here("03_train", *flags, "--classes", "10")
    assert status == 1 and "other settings (classes)" in text
    status, text = run_here("05_postprocess", *flags, "--submit", "words")
    assert status == 1 and "no Kaggle competition" in text
    status, text = run_here("03_train", *flags, "--classes", "11", "--run", "eleven")
    assert status == 1 and "choose 1 to 10" in text


@needs_sample
def test_real_sample_through_all_steps(tmp_path):
    flags = (
        *TINY,
        "--preset",
        "small",
        "--epochs",
        "1",
        "--size",
        "256",
        "--channels",
        "16",
        "--head-convs",
        "1",
        "--input",
        SHARED,
        "--working",
        tmp_path,
    )
    for step in STEPS:
        status, text = run_here(step, *flags)
        assert status == 0, text
    run_dir = tmp_path / "chestxdet" / "tiny"
    train, results = (
        pd.read_csv(run_dir.parent / "train.csv"),
        json.loads((run_dir / "results.json").read_text()),
    )
    assert (
        len(train) == 32
        and train.n_boxes.sum() == 58
        and results["n_images"] == 32
        and "test" not in results
    )
    assert {path.stem for path in (run_dir / "valid_results").iterdir()} == set(
        train.image_id.astype(str)
    )
    assert results["ap"]["Nodule"] is None, "no image of the sample has a nodule"
    assert "No judged image has a true box of Nodule, Mass" in text
