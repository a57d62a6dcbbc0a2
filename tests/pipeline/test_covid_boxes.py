"""COVID-19 boxes: what is learned and judged, all five steps, boxes of several runs merged for the studies."""

import json
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from steps import STEPS, run_here

from cxr.config import Config, build_parser, resolve
from cxr.data.dataset import read_table
from cxr.datasets.covid.synthetic import write_covid
from cxr.inference.opacity_boxes import FLOOR, fused_boxes
from cxr.inference.predictions import read_predictions, write_part
from cxr.methods.detector.records import Candidates
from cxr.system.disk import InputError
from cxr.tasks import TASKS

TASK = TASKS["covid-boxes"]
TINY = (
    "--task",
    "covid-boxes",
    "--preset",
    "demo",
    "--run",
    "tiny",
    "--folds",
    "2",
    "--epochs",
    "1",
    "--batch-size",
    "4",
    "--keep",
    "1",
    "--channels",
    "8",
    "--head-convs",
    "1",
    "--levels",
    "5-6",
    "--tta",
    "none",
    "--workers",
    "0",
    "--device",
    "cpu",
)


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory):
    root = tmp_path_factory.mktemp("covid_boxes")
    write_covid(root / "input" / TASK.slug, n_train=20, n_test=4, seed=1, side=96)
    flags = (*TINY, "--input", root / "input", "--working", root / "working")
    printed = {}
    for step in STEPS[1:]:
        status, printed[step] = run_here(step, *flags)
        assert status == 0, printed[step]
    task = root / "working" / "covid-boxes"
    return SimpleNamespace(
        task=task,
        run=task / "tiny",
        flags=flags,
        printed=printed,
        train=read_table(task / "train.csv"),
        test=read_table(task / "test.csv"),
    )


def test_unmarked_images_are_not_learned_as_empty():
    table = pd.DataFrame(
        {"n_boxes": [2, 0, 0, 0], "label": [1, 0, 3, -1], "mask_known": [True, True, False, False]}
    )
    kept = TASK.select(table, Config())
    assert kept.index.tolist() == [0, 1, 3], (
        "marked, negative, of the test set; not a positive one without box"
    )
    assert "mask_known" not in kept, "the loader would draw masks, which boxes do not need"


def test_unmarked_images_are_counted_and_predicted_but_not_judged(pipeline):
    unknown = pipeline.train[(pipeline.train.n_boxes == 0) & (pipeline.train.label > 0)]
    assert (
        len(unknown) >= 1
        and f"{len(unknown)} images of positive studies have no box" in pipeline.printed[STEPS[1]]
    )
    predicted = [
        c.image_id
        for k in (0, 1)
        for c in read_predictions(pipeline.run / f"fold{k}" / "valid_predictions", Candidates)
    ]
    assert sorted(predicted) == sorted(pipeline.train.image_id)
    results = json.loads((pipeline.run / "results.json").read_text())
    assert results["n_images"] == len(pipeline.train) - len(unknown)
    page = (pipeline.run / "report.html").read_text(encoding="utf-8")
    assert "have no box: the detector neither learns" in page


def test_average_precision_of_opacity(pipeline):
    results = json.loads((pipeline.run / "results.json").read_text())
    assert results["score"] == results["ap"]["Opacity"] and 0 <= results["score"] <= 1
    log = pd.read_csv(pipeline.run / "fold0" / "log.csv")
    assert np.allclose(log["metric"], log["ap_Opacity"])


def test_patients_studies_and_copies_stay_in_one_fold(pipeline):
    for name in ("patient", "study_id", "cluster"):
        assert (pipeline.train.groupby(name).fold.nunique() == 1).all(), name
    assert "0 clusters of copies are in more than one fold" in pipeline.printed[STEPS[1]]


def test_boxes_of_the_test_images(pipeline):
    table = pd.read_csv(pipeline.run / "test_boxes.csv", dtype={"image_id": str}).merge(
        pipeline.test[["image_id", "width", "height"]].astype({"image_id": str}), on="image_id"
    )
    assert set(table.image_id) <= set(pipeline.test.image_id) and len(table)
    assert (
        (table.x1 < table.x2).all()
        and (table.x2 <= table.width).all()
        and (table.y2 <= table.height).all()
    )
    assert (
        table.score.min() >= FLOOR
        and table.groupby("image_id").score.apply(lambda s: s.is_monotonic_decreasing).all()
    )


def test_boxes_for_the_task_of_the_studies(pipeline):
    found = fused_boxes(pipeline.task, ["tiny"], "valid", pipeline.train)
    tests = fused_boxes(pipeline.task, ["tiny"], "test", pipeline.test)
    assert found.keys() == set(pipeline.train.image_id) and tests.keys() == set(
        pipeline.test.image_id
    )
    table = pd.read_csv(pipeline.run / "test_boxes.csv", dtype={"image_id": str})
    for image_id, (boxes, scores) in tests.items():
        own = table[table.image_id == image_id].head(len(boxes))
        assert np.allclose(own[["x1", "y1", "x2", "y2"]], boxes, atol=0.06) and np.allclose(
            own.score, scores, atol=1e-6
        )
    twice = fused_boxes(pipeline.task, ["tiny", "tiny"], "test", pipeline.test)
    for image_id, (boxes, scores) in twice.items():
        assert (
            scores.max() == pytest.approx(tests[image_id][1].max()) and (np.diff(scores) <= 0).all()
        )


def test_a_second_run_does_nothing_and_all_runs_are_compared(pipeline):
    status, text = run_here("03_train", *pipeline.flags)
    assert status == 0 and "nothing to do" in text
    status, text = run_here("05_postprocess", *pipeline.flags, "--compare", "all")
    assert status == 0, text
    page = (pipeline.task / "compare.html").read_text(encoding="utf-8")
    assert "tiny" in page and "AP<br>Opacity" in page and "leaderboard" not in page


def candidates(image_id, boxes, scores, frame=(100, 200)):
    boxes = np.array(boxes, np.float32).reshape(-1, 4)
    size = boxes[:, 2:] - boxes[:, :2]
    return Candidates(
        image_id,
        *frame,
        np.ones(4) / 4,
        (boxes[:, :2] + boxes[:, 2:]) / 2,
        size,
        size,
        np.array(scores, np.float32),
        np.zeros(len(boxes), np.int16),
    )


def write_run(task_dir, run, images):
    """Predictions of a run: {image_id: (fold, boxes, scores)}; also as test predictions."""
    rows = [(fold, candidates(key, boxes, scores)) for key, (fold, boxes, scores) in images.items()]
    for folder, own in [
        ("test_predictions", rows),
        *(
            (f"fold{k}/valid_predictions", [r for r in rows if r[0] == k])
            for k in sorted({fold for fold, _ in rows})
        ),
    ]:
        (task_dir / run / folder).mkdir(parents=True)
        write_part(task_dir / run / folder, 0, [one for _, one in own])


@pytest.fixture
def detectors(tmp_path):
    """Two runs of three images: one box seen by both and one by the first only; nothing; one box of the second."""
    task_dir = tmp_path / "covid-boxes"
    write_run(
        task_dir,
        "first",
        {
            "a": (0, [[10, 10, 50, 50], [60, 100, 90, 160]], [0.8, 0.5]),
            "b": (1, [], []),
            "c": (1, [], []),
        },
    )
    write_run(
        task_dir,
        "second",
        {
            "a": (0, [[10, 10, 50, 54]], [0.4]),
            "b": (1, [], []),
            "c": (1, [[0, 0, 100, 200]], [0.6]),
        },
    )
    table = pd.DataFrame({"image_id": ["a", "b", "c"], "fold": [0, 1, 1]})
    table.to_csv(task_dir / "train.csv", index=False)
    return SimpleNamespace(folder=task_dir, table=table)


@pytest.mark.parametrize("which", ["valid", "test"])
def test_two_runs_by_hand(detectors, which):
    found = fused_boxes(detectors.folder, ["first", "second"], which, detectors.table)
    boxes, scores = found["a"]
    # corners weighted by score: (0.8 * 50 + 0.4 * 54) / 1.2; the mean score; half of it where one of two runs has a box
    assert np.allclose(boxes, [[10, 10, 50, 51.3333], [60, 100, 90, 160]], atol=1e-3)
    assert np.allclose(scores, [0.6, 0.25], atol=1e-6)
    assert found["b"][0].shape == (0, 4) and found["b"][1].shape == (0,)
    assert np.allclose(found["c"][0], [[0, 0, 100, 200]], atol=1e-3) and np.allclose(
        found["c"][1], [0.3]
    )


def test_one_run_stays_as_it_is(detectors):
    boxes, scores = fused_boxes(detectors.folder, ["first"], "valid", detectors.table)["a"]
    assert np.allclose(boxes, [[10, 10, 50, 50], [60, 100, 90, 160]]) and np.allclose(
        scores, [0.8, 0.5]
    )


def test_boxes_of_one_opacity_are_one(tmp_path):
    write_run(
        tmp_path / "covid-boxes",
        "r",
        {"a": (0, [[0, 0, 40, 40], [0, 0, 40, 30], [0, 30, 40, 80]], [0.9, 0.8, 0.7])},
    )
    boxes, scores = fused_boxes(
        tmp_path / "covid-boxes", ["r"], "test", pd.DataFrame({"image_id": ["a"]})
    )["a"]
    assert np.allclose(scores, [0.9, 0.7]), "IoU 0.75 and 0.125"


def test_some_folds_only(detectors):
    part = detectors.table[detectors.table.fold == 0]
    assert fused_boxes(detectors.folder, ["first"], "valid", part).keys() == {"a"}


@pytest.mark.parametrize(
    "table", [{"image_id": ["a", "b"], "fold": [0, 0]}, {"image_id": ["a", "new"], "fold": [0, 1]}]
)
def test_folds_that_disagree(detectors, table):
    with pytest.raises(
        InputError,
        match="1 images, such as (b|new), are not in the same fold.*--cleaning, and train",
    ):
        fused_boxes(detectors.folder, ["first"], "valid", pd.DataFrame(table))


def test_boxes_of_another_folds_models_do_not_count(detectors):
    """As the folders of an older split would be."""
    other = detectors.table.assign(fold=[1, 1, 0])
    other.to_csv(detectors.folder / "train.csv", index=False)
    with pytest.raises(InputError, match="fold0.*has no boxes of c"):
        fused_boxes(detectors.folder, ["first"], "valid", other)


def test_missing_predictions(detectors):
    words = "no boxes of d .1 images.: run python 04_predict.py --task covid-boxes --run first"
    with pytest.raises(InputError, match=words):
        fused_boxes(detectors.folder, ["first"], "test", pd.DataFrame({"image_id": ["a", "d"]}))
    with pytest.raises(InputError, match="no boxes of a .* --run never"):
        fused_boxes(detectors.folder, ["never"], "valid", detectors.table)
    with pytest.raises(InputError, match="train.csv is missing: run step 02"):
        fused_boxes(detectors.folder / "nowhere", ["never"], "valid", detectors.table)


def test_runs_are_named_on_the_command_line():
    given = vars(build_parser("").parse_args(["--task", "covid-boxes", "--opacities", "a", "b"]))
    assert resolve(given, {"covid-boxes": TASK.presets}).opacities == ("a", "b")
