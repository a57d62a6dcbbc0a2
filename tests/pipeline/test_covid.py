"""SIIM COVID-19: samples, views, folds, judging, and the five steps through the scripts on a tiny synthetic set."""

import json
from dataclasses import replace
from types import SimpleNamespace

import cv2
import numpy as np
import pandas as pd
import pytest
import torch
from steps import STEPS, copy_of_run, run_here

from cxr.config import Config
from cxr.data.augmentation import Augmentation
from cxr.data.batch import collate
from cxr.data.dataset import XrayDataset
from cxr.data.mask_augmentation import MaskAugmentation
from cxr.data.predictions import read_predictions, write_part
from cxr.data.samplers import ResumableSampler
from cxr.data.tables import read_table
from cxr.datasets.covid.dataset import submission_of
from cxr.datasets.covid.files import read_covid_sample
from cxr.datasets.covid.submission import check_covid_submission
from cxr.datasets.prediction_strings import parse_predictions
from cxr.inference.run import VIEWS, predict_batch
from cxr.methods.classifier.records import ClassPrediction, StudyCase
from cxr.methods.classifier.study_scorer import evaluate
from cxr.metrics.studies import ALL_CLASSES
from cxr.steps.postprocess import postprocess
from cxr.system.errors import InputError
from cxr.tasks import TASKS

TASK = TASKS["covid"]
FLAGS = (
    "--task",
    "covid",
    "--demo",
    "--demo-images",
    "24",
    "--run",
    "tiny",
    "--folds",
    "2",
    "--epochs",
    "1",
    "--size",
    "96",
    "--image-size",
    "64",
    "--batch-size",
    "4",
    "--keep",
    "1",
    "--workers",
    "0",
    "--device",
    "cpu",
    "--tta",
    "flips",
)


def opacity_table(folder, **columns):
    """One original of 300 x 200 pixels, stored at 150 x 150, white inside its box."""
    picture = np.zeros((150, 150), np.uint8)
    picture[45:90, 60:100] = 255  # of the original: 120 to 200, 60 to 120
    folder.mkdir(exist_ok=True)
    cv2.imwrite(str(folder / "a.png"), picture)
    row = {
        "image_id": "a",
        "width": 300,
        "height": 200,
        "boxes": "[[120, 60, 200, 120]]",
        "box_labels": "[0]",
        "label": 1,
        "mask_known": True,
    }
    return pd.DataFrame([row | columns])


class Corner(torch.nn.Module):
    """Class 0 if the upper left quarter is bright, 1 the upper right one, 2 and 3 below."""

    def forward(self, images):
        quarters = torch.nn.functional.adaptive_avg_pool2d(images.float(), 2).flatten(1)
        return {"label": quarters / 10}


@pytest.mark.parametrize("name, order", [("none", [0]), ("flip", [0, 1]), ("flips", [0, 1, 2, 3])])
def test_views(name, order):
    """Identity, left-right, upside down, both; each undoes itself, and probabilities are averaged, not logits."""
    images = torch.zeros(1, 1, 8, 8, dtype=torch.uint8)
    images[..., :4, :4] = 100
    views = [TASK.apply_view(images, view, None) for view in VIEWS[name]]
    assert [int(Corner()(view)["label"].argmax()) for view in views] == order
    assert all(
        torch.equal(TASK.apply_view(seen, view, None), images)
        for seen, view in zip(views, VIEWS[name])
    )
    merged = predict_batch(TASK, [Corner()], VIEWS[name], images, "fp32")[0]
    expected = torch.stack([Corner()(view)["label"].softmax(-1)[0] for view in views]).mean(0)
    assert torch.allclose(merged, expected) and float(merged.sum()) == pytest.approx(1)


def test_validation_sees_every_image_and_studies_are_not_mixed_up():
    """17th place: the last incomplete batch was dropped, and images of a study in one batch replaced each other."""
    sampler = ResumableSampler(6, 4, 0, False)
    assert [row for _, row in sampler] == [0, 1, 2, 3, 4, 5] and sampler.batches() == 2
    table = pd.DataFrame({"study_id": ["s", "s", "t", "u", "v"], "label": [0, 0, 1, 2, 3]})
    logits = torch.log(
        torch.tensor(
            [
                [0.1, 0.7, 0.1, 0.1],
                [0.9, 0.04, 0.03, 0.03],
                [0.15, 0.55, 0.2, 0.1],
                [0.15, 0.1, 0.65, 0.1],
                [0.15, 0.1, 0.1, 0.65],
            ]
        )
    )
    found = TASK.quick_predictions({"label": logits}, {"index": torch.arange(5)}, None)
    scores = TASK.quick_score(found, table, None)
    assert len(found) == 5 and scores == {"metric": 1.0} | dict.fromkeys(
        ["ap_negative", "ap_typical", "ap_indeterminate", "ap_atypical"], 1.0
    )
    # without its second image the study s would be called typical, ahead of t, and be the last of the negative ones
    alone = TASK.quick_score({row: found[row] for row in (0, 2, 3, 4)}, table, None)
    assert alone["ap_typical"] == 0.5 and alone["ap_negative"] == 0.25


CLASSES = np.eye(4)


def cases(noise=0.0, seed=0, count=24):
    """StudyCases of studies of one or two images, two folds, of which the class is told more or less clearly."""
    rng, made = np.random.default_rng(seed), []
    for study in range(count):
        label, boxes = study % 4, np.array([[1, 1, 5, 5]]) if study % 4 else np.zeros((0, 4))
        for image in range(1 + study % 2):
            category = CLASSES[label] + noise * rng.random(4)
            found = ClassPrediction(
                f"i{study}_{image}", 10, 10, (category / category.sum()).astype(np.float32)
            )
            made.append(StudyCase(found, f"s{study}", label, boxes, study // 4 % 2, f"p{study}"))
    return made


CONFIG = Config(task="covid", run="own", folds=2)


def test_perfect_predictions():
    made = cases()
    found = evaluate(CONFIG, lambda: iter(made), {})
    assert found.score == 1.0 and found.interval == (1.0, 1.0) and found.counted == len(made) == 36
    assert found.figures == {
        "x 2/3, the studies' share of the competition's score": pytest.approx(2 / 3),
        "AP of none": 1.0,
        "competition's score without opacity boxes": pytest.approx(5 / 6),
    }
    assert found.baselines[0][1] == 0.25 and [fold for fold, _, _ in found.folds] == [0, 1]
    assert (found.images["score"] == 1).all() and found.images["caption"][
        0
    ] == "negative, called negative (1.00)"
    assert [row["images"] for row in found.class_rows] == [6, 6, 6, 6] and found.params == {}


def test_boxes_of_a_detector():
    made = cases()
    boxes = {case.found.image_id: (case.boxes, np.full(len(case.boxes), 0.9)) for case in made}
    found = evaluate(CONFIG, lambda: iter(made), boxes)
    assert found.figures["AP of opacity"] == 1 == found.figures["competition's score"]
    assert found.predicted.corners["i1_0"].tolist() == [[1, 1, 5, 5]] and found.predicted.scores[
        "i1_0"
    ].tolist() == [0.9]


def test_a_guess_that_ignores_the_image_is_chance():
    made = [
        case._replace(found=replace(case.found, category=np.full(4, 0.25, np.float32)))
        for case in cases()
    ]
    assert evaluate(CONFIG, lambda: iter(made), {}).score == pytest.approx(0.25)


def test_a_class_without_a_study_is_left_out():
    made = [case for case in cases() if case.label != 3]
    found = evaluate(CONFIG, lambda: iter(made), {})
    assert (
        found.score == 1
        and "No judged study is atypical" in found.notes[0]
        and len(found.class_curves) == 3
    )


def test_fit_on_is_refused():
    with pytest.raises(InputError, match="--fit-on published is impossible"):
        evaluate(replace(CONFIG, fit_on="published"), lambda: iter(cases()), {})


def write_run(folder, made):
    for fold in (0, 1):
        write_part(
            folder / f"fold{fold}" / "valid_predictions",
            0,
            [case.found for case in made if case.fold == fold],
        )
    write_part(
        folder / "test_predictions", 0, [ClassPrediction("t", 9, 9, CLASSES[1].astype(np.float32))]
    )


def test_other_runs_are_mixed_in(tmp_path):
    """The worse run is told what the better one knows; a fold's weights come from the other fold."""
    config = replace(CONFIG, working=tmp_path, stack=("better",))
    worse, better = cases(noise=4.0), cases(noise=0.5, seed=1)
    write_run(config.task_dir / "better", better)
    alone = evaluate(replace(config, stack=()), lambda: iter(worse), {})
    mixed = evaluate(config, lambda: iter(worse), {})
    assert alone.score < 0.9 < mixed.score and mixed.params["weights"]["better"] > 0.3
    share = mixed.params["weights"]["better"]
    own = ClassPrediction("t", 9, 9, CLASSES[0].astype(np.float32))
    assert mixed.detect(own) == pytest.approx([1 - share, share, 0, 0])
    with pytest.raises(InputError, match="no test prediction of u"):
        mixed.detect(replace(own, image_id="u"))
    with pytest.raises(
        InputError, match="has no out-of-fold prediction of i0_0 .*run 04_predict.py"
    ):
        evaluate(replace(config, stack=("nobody",)), lambda: iter(worse), {})


def test_submission_has_boxes_and_means_of_studies():
    test = pd.DataFrame(
        {"image_id": ["a", "b", "c"], "study_id": ["s", "s", "t"], "width": 50, "height": 60}
    )
    train = pd.DataFrame({"study_id": list("wxyz"), "label": [0, 1, 2, 3], "n_boxes": [0, 1, 1, 1]})
    ids = ["s_study", "t_study", "gone_study", "c_image", "a_image", "b_image", "gone_image"]
    sample = pd.DataFrame({"id": ids, "PredictionString": ""})
    answers = {"a": np.array([0.8, 0.2, 0, 0]), "b": np.array([0.4, 0.2, 0.4, 0]), "c": CLASSES[3]}
    table = submission_of(
        sample, test, train, answers, {"a": (np.array([[1, 2, 30, 40]]), np.array([0.5]))}
    )
    check_covid_submission(table, sample, dict.fromkeys("abc", (50, 60)))
    texts = dict(zip(table["id"], table["PredictionString"]))
    assert parse_predictions(texts["s_study"], ALL_CLASSES).scores == pytest.approx([0.6, 0.2, 0.2, 1e-6])
    assert parse_predictions(texts["gone_study"], ALL_CLASSES).scores == pytest.approx([0.25] * 4)
    assert (
        texts["a_image"] == "opacity 0.500000 1 2 30 40 none 0.550000 0 0 1 1"
    )  # mean of 0.6 and 1 - 0.5
    assert (
        texts["b_image"] == "none 0.800000 0 0 1 1"
        and texts["gone_image"] == "none 0.250000 0 0 1 1"
    )
    nothing = submission_of(sample, test[:0], train, {}, {})
    assert nothing["PredictionString"][0] == texts["gone_study"]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The five steps at their smallest: source and task folder, flags, printed {step: text}."""
    root = tmp_path_factory.mktemp("covid")
    flags = (*FLAGS, "--input", root / "input", "--working", root / "working")
    printed = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(TASK, "write_synthetic", smaller_images(TASK.write_synthetic), raising=False)
        for step in STEPS:
            more = ("--leaderboard", "0.5") if step == STEPS[-1] else ()
            status, printed[step] = run_here(step, *flags, *more)
            assert status == 0, f"{step}: {printed[step]}"
    task = root / "working" / "covid"
    return SimpleNamespace(
        source=root / "input" / TASK.slug,
        root=root,
        task=task,
        run=task / "tiny",
        flags=flags,
        printed=printed,
    )


def smaller_images(write):
    return lambda folder, n_train: write(folder, n_train=n_train, n_test=6, side=128)


@pytest.fixture
def copy(finished, tmp_path):
    return copy_of_run(finished, tmp_path, FLAGS)


def test_copies_stay_in_one_fold(finished):
    train = read_table(finished.task / "train.csv")
    for key in ("patient", "study_id", "cluster", "group"):
        assert train.groupby(key)["fold"].nunique().max() == 1, key
    assert train["cluster"].duplicated().any() and (finished.task / "copies.png").stat().st_size
    assert (
        train.groupby("group")["patient"].nunique().max() > 1
    )  # the copy in another patient's study
    text = finished.printed["02_preprocess"]
    for words in (
        "cleaning rule B",
        "clusters of copies hold",
        "0 patients are in more than one fold",
        "0 studies are in more than one fold",
        "0 clusters of copies are in more than one fold",
    ):
        assert words in text
    assert json.loads((finished.task / "preprocess.json").read_text())["cleaning"] == "B"
    assert train["mask_known"].dtype == bool and not train["mask_known"].all()


def test_a_folder_holds_the_result_of_one_cleaning_rule(copy):
    status, text = run_here("02_preprocess", *copy.flags, "--cleaning", "A")
    assert status == 1 and "was made with cleaning B, not A: choose another --working" in text


def test_log_and_predictions(finished):
    log = pd.read_csv(finished.run / "fold0" / "log.csv")
    assert {
        "train_class",
        "train_bce",
        "train_dice",
        "valid_class",
        "metric",
        "ap_negative",
        "ap_atypical",
    } <= set(log)
    found = list(read_predictions(finished.run / "fold0" / "valid_predictions", ClassPrediction))
    train = read_table(finished.task / "train.csv")
    assert [p.image_id for p in found] == train.loc[train["fold"] == 0, "image_id"].tolist()
    assert all(p.category.sum() == pytest.approx(1, abs=1e-5) for p in found)


def test_scores_and_submission(finished):
    results = json.loads((finished.run / "results.json").read_text())
    assert (
        0 < results["score"] <= 1
        and results["leaderboard"] == 0.5
        and results["ap"]["opacity"] is None
    )
    assert "leaderboard 0.5000" in finished.printed["05_postprocess"]
    table, sample = (
        pd.read_csv(finished.run / "submission.csv", dtype=str),
        read_covid_sample(finished.source),
    )
    assert list(table.columns) == ["id", "PredictionString"]
    check_covid_submission(table, sample, {})


def test_report(finished):
    page = (finished.run / "report.html").read_text(encoding="utf-8")
    for words in (
        "Each class",
        "Right: the class of a study",
        "studies</small>",
        "leaderboard",
        "typical, called ",
        "AP of none",
    ):
        assert words in page
    assert "marked<br>boxes" not in page and (finished.run / "gallery.png").stat().st_size


def test_step_5_again_and_with_itself_mixed_in(copy, monkeypatch):
    monkeypatch.setattr(
        postprocess, "write_report", lambda path, report: path
    )  # drawn once in `finished`
    before = (copy.run / "submission.csv").read_bytes()
    assert run_here("05_postprocess", *copy.flags)[0] == 0
    assert (copy.run / "submission.csv").read_bytes() == before
    assert run_here("05_postprocess", *copy.flags, "--stack", "tiny")[0] == 0
    assert (copy.run / "submission.csv").read_bytes() == before


def test_views_that_a_task_cannot_undo_are_refused(finished, copy):
    status, text = run_here(
        "04_predict", *copy.flags, "--tta", "flip+scale", "--predictions", "other"
    )
    assert status == 1 and "--tta flip+scale is not for covid: choose none, flip, flips" in text
    for name in ("rsna", "pneumothorax"):
        assert "flips" not in TASKS[name].tta


def test_what_needs_masks_is_refused():
    with pytest.raises(InputError, match="this task predicts classes: leave it out"):
        TASK.select(pd.DataFrame(), replace(CONFIG, unlabelled="other"))


def test_soft_labels_reach_the_loss(tmp_path):
    """Half one class, half another: the loss is the mean of both losses."""
    table = opacity_table(tmp_path).assign(soft="[0.5, 0.0, 0.5, 0.0]", mask_known=False)
    batch = collate([XrayDataset(table, tmp_path, 64)[(0, 0)]])
    assert batch["soft"].tolist() == [[0.5, 0, 0.5, 0]]
    logits = torch.tensor([[1.0, 2.0, 4.0, 0.0]])
    config = replace(CONFIG, label_smoothing=0.0)
    losses = [torch.nn.functional.cross_entropy(logits, torch.tensor([label])) for label in (0, 2)]
    assert TASK.loss({"label": logits}, batch, None, config)["class"] == pytest.approx(
        float(sum(losses) / 2)
    )


def test_a_student_learns_classes_of_the_test_images(copy):
    status, text = run_here(
        "03_train",
        *copy.flags,
        "--run",
        "student",
        "--pseudo",
        "tiny",
        "--pseudo-ratio",
        "1",
        "--fold",
        "1",
        "--epochs",
        "2",
    )
    assert status == 0, text
    folder = copy.run.parent
    test = read_table(folder / "test.csv")
    known = list(read_predictions(folder / "tiny" / "fold1" / "test_predictions", TASK.kind))
    assert [found.image_id for found in known] == test["image_id"].tolist()
    assert not (folder / "tiny" / "fold0" / "test_predictions").exists()
    assert len(pd.read_csv(folder / "student" / "fold1" / "log.csv")) == 2


def test_networks_of_all_presets():
    for name, preset in TASK.presets.items():
        if preset["image_size"] < 256:  # EfficientNetV2-L takes long to fill with random numbers
            model = TASK.build_model(replace(Config(), **preset), load_weights=False)
            assert model.image_size == preset["image_size"] and model.decoder is not None, name


def test_augmentations_of_all_presets():
    for preset in TASK.presets.values():
        kind, side = (
            (MaskAugmentation if preset["augmentation"] == "seventeenth" else Augmentation),
            64,
        )
        image, mask = np.full((side, side), 128, np.uint8), np.ones((side, side), np.uint8)
        found = kind(preset["augmentation"], side)(
            image, np.zeros((0, 4)), np.zeros(0, int), np.random.default_rng(0), mask
        )
        assert found[0].shape == found[3].shape == (side, side) and set(np.unique(found[3])) <= {
            0,
            1,
        }
        assert not np.array_equal(found[0], image)
