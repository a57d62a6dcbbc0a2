"""COVID-19 boxes: what is learned and judged, all five steps, and boxes of several runs merged for
the studies."""

import json
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from steps import STEPS, run_here

from cxr.command_line import read_command_line
from cxr.data.predictions import read_predictions, write_part
from cxr.data.tables import read_table
from cxr.datasets.covid.synthetic import write_covid
from cxr.inference.opacity_boxes import fused_boxes
from cxr.methods.detector.records import Candidates
from cxr.run_folder import TaskFolder
from cxr.system.errors import InputError
from cxr.tasks import TASKS

TASK = TASKS["covid-boxes"]
FLOOR = 0.001  # score of the boxes that are kept for the studies
TINY = (
    *("--task", "covid-boxes", "--preset", "demo", "--run", "tiny"),
    *("--folds", "2", "--epochs", "1", "--batch-size", "4", "--keep", "1"),
    *("--channels", "8", "--head-convs", "1", "--levels", "5-6"),
    *("--tta", "none", "--workers", "0", "--device", "cpu"),
)


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory):
    root = tmp_path_factory.mktemp("covid_boxes")
    write_covid(root / "input" / TASK.dataset.slug, n_train=20, n_test=4, seed=1, side=96)
    flags = (*TINY, "--input", root / "input", "--working", root / "working")
    printed = {}
    for step in STEPS[1:]:
        status, printed[step] = run_here(step, *flags)
        assert status == 0, printed[step]
    task = TaskFolder(root / "working" / "covid-boxes")
    return SimpleNamespace(
        task=task,
        run=task.run("tiny"),
        flags=flags,
        printed=printed,
        train=read_table(task.table("train")),
        test=read_table(task.table("test")),
    )


def test_unmarked_images_are_not_learned_as_empty():
    table = pd.DataFrame(
        {"n_boxes": [2, 0, 0, 0], "label": [1, 0, 3, -1], "mask_known": [True, True, False, False]}
    )
    kept = TASK.dataset.select_rows(table, TASK.dataset.labels)
    assert kept.index.tolist() == [0, 1, 3], (
        "marked, negative, of the test set; not a positive one without box"
    )
    settings = TASK.settings_of({})
    assert TASK.method.sample_content(settings).mask == "none", "boxes do not need masks"


def test_the_candidates_that_are_kept():
    for preset in TASK.presets:
        settings = TASK.settings_of({"preset": preset})
        assert settings.method.candidate_floor == FLOOR, preset


def test_unmarked_images_are_counted_and_predicted_but_not_judged(pipeline):
    unknown = pipeline.train[(pipeline.train.n_boxes == 0) & (pipeline.train.label > 0)]
    assert len(unknown) >= 1
    words = f"{len(unknown)} images of positive studies have no box"
    assert words in pipeline.printed[STEPS[1]]
    predicted = []
    for fold in (0, 1):
        folder = pipeline.run.fold(fold).valid_predictions("predictions")
        predicted += [candidates.image_id for candidates in read_predictions(folder, Candidates)]
    assert sorted(predicted) == sorted(pipeline.train.image_id)
    results = json.loads(pipeline.run.judged().results.read_text())
    assert results["n_images"] == len(pipeline.train) - len(unknown)
    page = pipeline.run.judged().report.read_text(encoding="utf-8")
    assert "have no box: the detector neither learns" in page


def test_average_precision_of_opacity(pipeline):
    results = json.loads(pipeline.run.judged().results.read_text())
    assert results["score"] == results["ap"]["Opacity"]
    assert 0 <= results["score"] <= 1
    log = pd.read_csv(pipeline.run.fold(0).log)
    assert np.allclose(log["metric"], log["ap_Opacity"])


def test_patients_studies_and_copies_stay_in_one_fold(pipeline):
    for name in ("patient", "study_id", "cluster"):
        folds = pipeline.train.groupby(name).fold.nunique()
        assert (folds == 1).all(), name
    assert "0 clusters of copies are in more than one fold" in pipeline.printed[STEPS[1]]


def read_test_boxes(pipeline):
    return pd.read_csv(pipeline.run.path / "test_boxes.csv", dtype={"image_id": str})


def test_boxes_of_the_test_images(pipeline):
    sizes = pipeline.test[["image_id", "width", "height"]].astype({"image_id": str})
    table = read_test_boxes(pipeline).merge(sizes, on="image_id")
    assert set(table.image_id) <= set(pipeline.test.image_id)
    assert len(table)
    assert (table.x1 < table.x2).all()
    assert (table.x2 <= table.width).all()
    assert (table.y2 <= table.height).all()
    assert table.score.min() >= FLOOR
    for _, scores in table.groupby("image_id").score:
        assert scores.is_monotonic_decreasing


def test_boxes_for_the_task_of_the_studies(pipeline):
    out_of_fold = fused_boxes(pipeline.task, ["tiny"], "valid", pipeline.train)
    of_test = fused_boxes(pipeline.task, ["tiny"], "test", pipeline.test)
    assert out_of_fold.keys() == set(pipeline.train.image_id)
    assert of_test.keys() == set(pipeline.test.image_id)
    table = read_test_boxes(pipeline)
    for image_id, (boxes, scores) in of_test.items():
        written = table[table.image_id == image_id].head(len(boxes))
        assert np.allclose(written[["x1", "y1", "x2", "y2"]], boxes, atol=0.06)
        assert np.allclose(written.score, scores, atol=1e-6)
    twice = fused_boxes(pipeline.task, ["tiny", "tiny"], "test", pipeline.test)
    for image_id, (_, scores) in twice.items():
        assert scores.max() == pytest.approx(of_test[image_id][1].max())
        assert (np.diff(scores) <= 0).all()


def test_a_second_run_does_nothing_and_all_runs_are_compared(pipeline):
    status, text = run_here("03_train", *pipeline.flags)
    assert status == 0
    assert "nothing to do" in text
    status, text = run_here("05_postprocess", *pipeline.flags, "--compare", "all")
    assert status == 0, text
    page = (pipeline.task.path / "compare.html").read_text(encoding="utf-8")
    assert "tiny" in page
    assert "AP<br>Opacity" in page
    assert "leaderboard" not in page


def candidates(image_id, boxes, scores, width=100, height=200):
    boxes = np.array(boxes, np.float32).reshape(-1, 4)
    size = boxes[:, 2:] - boxes[:, :2]
    return Candidates(
        image_id=image_id,
        width=width,
        height=height,
        category=np.ones(4) / 4,
        centre=(boxes[:, :2] + boxes[:, 2:]) / 2,
        size20=size,
        size80=size,
        score=np.array(scores, np.float32),
        label=np.zeros(len(boxes), np.int16),
    )


def write_run(task, name, images):
    """Predictions of a run: {image_id: (fold, boxes, scores)}; all of them as test predictions."""
    run = task.run(name)
    by_folder = {run.test_predictions("predictions"): []}
    for image_id, (fold, boxes, scores) in images.items():
        prediction = candidates(image_id, boxes, scores)
        by_folder[run.test_predictions("predictions")].append(prediction)
        folder = run.fold(fold).valid_predictions("predictions")
        by_folder.setdefault(folder, []).append(prediction)
    for folder, predictions in by_folder.items():
        folder.mkdir(parents=True)
        write_part(folder, 0, predictions)


@pytest.fixture
def detectors(tmp_path):
    """Two runs of three images.

    One box seen by both and one by the first only; nothing; one box of the second.
    """
    task = TaskFolder(tmp_path / "covid-boxes")
    write_run(
        task,
        "first",
        {
            "a": (0, [[10, 10, 50, 50], [60, 100, 90, 160]], [0.8, 0.5]),
            "b": (1, [], []),
            "c": (1, [], []),
        },
    )
    write_run(
        task,
        "second",
        {
            "a": (0, [[10, 10, 50, 54]], [0.4]),
            "b": (1, [], []),
            "c": (1, [[0, 0, 100, 200]], [0.6]),
        },
    )
    table = pd.DataFrame({"image_id": ["a", "b", "c"], "fold": [0, 1, 1]})
    table.to_csv(task.table("train"), index=False)
    return SimpleNamespace(task=task, table=table)


@pytest.mark.parametrize("which", ["valid", "test"])
def test_two_runs_by_hand(detectors, which):
    fused = fused_boxes(detectors.task, ["first", "second"], which, detectors.table)
    boxes, scores = fused["a"]
    # Corners weighted by score: (0.8 * 50 + 0.4 * 54) / 1.2; the mean score; half of it where one
    # of two runs has a box.
    assert np.allclose(boxes, [[10, 10, 50, 51.3333], [60, 100, 90, 160]], atol=1e-3)
    assert np.allclose(scores, [0.6, 0.25], atol=1e-6)
    boxes, scores = fused["b"]
    assert boxes.shape == (0, 4)
    assert scores.shape == (0,)
    boxes, scores = fused["c"]
    assert np.allclose(boxes, [[0, 0, 100, 200]], atol=1e-3)
    assert np.allclose(scores, [0.3])


def test_one_run_stays_as_it_is(detectors):
    boxes, scores = fused_boxes(detectors.task, ["first"], "valid", detectors.table)["a"]
    assert np.allclose(boxes, [[10, 10, 50, 50], [60, 100, 90, 160]])
    assert np.allclose(scores, [0.8, 0.5])


def test_boxes_of_one_opacity_are_one(tmp_path):
    task = TaskFolder(tmp_path / "covid-boxes")
    boxes = [[0, 0, 40, 40], [0, 0, 40, 30], [0, 30, 40, 80]]
    write_run(task, "r", {"a": (0, boxes, [0.9, 0.8, 0.7])})
    table = pd.DataFrame({"image_id": ["a"]})
    _, scores = fused_boxes(task, ["r"], "test", table)["a"]
    assert np.allclose(scores, [0.9, 0.7]), "IoU 0.75 and 0.125"


def test_some_folds_only(detectors):
    part = detectors.table[detectors.table.fold == 0]
    assert fused_boxes(detectors.task, ["first"], "valid", part).keys() == {"a"}


@pytest.mark.parametrize(
    "table", [{"image_id": ["a", "b"], "fold": [0, 0]}, {"image_id": ["a", "new"], "fold": [0, 1]}]
)
def test_folds_that_disagree(detectors, table):
    with pytest.raises(
        InputError,
        match=r"1 images, such as (b|new), are not in the same fold.*--cleaning, and train",
    ):
        fused_boxes(detectors.task, ["first"], "valid", pd.DataFrame(table))


def test_boxes_of_another_folds_models_do_not_count(detectors):
    """As the folders of an older split would be."""
    other = detectors.table.assign(fold=[1, 1, 0])
    other.to_csv(detectors.task.table("train"), index=False)
    with pytest.raises(InputError, match=r"fold0.*has no boxes of c"):
        fused_boxes(detectors.task, ["first"], "valid", other)


def test_missing_predictions(detectors):
    words = r"no boxes of d .1 images.: run python 04_predict.py --task covid-boxes --run first"
    with pytest.raises(InputError, match=words):
        fused_boxes(detectors.task, ["first"], "test", pd.DataFrame({"image_id": ["a", "d"]}))
    with pytest.raises(InputError, match=r"no boxes of a .* --run never"):
        fused_boxes(detectors.task, ["never"], "valid", detectors.table)
    with pytest.raises(InputError, match=r"train.csv is missing: run step 02"):
        fused_boxes(
            TaskFolder(detectors.task.path / "nowhere"), ["never"], "valid", detectors.table
        )


def test_runs_are_named_on_the_command_line_of_the_studies():
    flags = ["--opacities", "a", "b"]
    _, settings = read_command_line("postprocess", "", ["--task", "covid", *flags])
    assert settings.method.opacities == ("a", "b")
    with pytest.raises(InputError, match=r"--opacities is read by --task .*covid, own-classes"):
        read_command_line("postprocess", "", ["--task", "covid-boxes", *flags])
