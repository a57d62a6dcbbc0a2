"""SIIM COVID-19: samples, views, folds, judging, and the five steps on a tiny synthetic set."""

import json
from dataclasses import replace
from types import SimpleNamespace

import cv2
import numpy as np
import pandas as pd
import pytest
import torch
from steps import STEPS, copy_of_run, run_here
from torch.nn.functional import adaptive_avg_pool2d, cross_entropy

from cxr.command_line import read_command_line
from cxr.data.annotated_image import AnnotatedImage
from cxr.data.batch import Batch, SampleContent, collate
from cxr.data.dataset import XrayDataset, make_augmentation
from cxr.data.predictions import read_predictions, write_part
from cxr.data.samplers import ResumableSampler
from cxr.data.tables import read_table
from cxr.datasets.covid import dataset as covid_dataset
from cxr.datasets.covid.dataset import make_submission
from cxr.datasets.covid.files import read_covid_sample
from cxr.datasets.covid.submission import check_covid_submission
from cxr.datasets.covid.synthetic import write_covid
from cxr.datasets.prediction_strings import parse_predictions
from cxr.inference.run import predict_batch
from cxr.methods.base import VIEW_SETS, Judging
from cxr.methods.classifier.records import ClassPrediction, StudyCase
from cxr.metrics.image_rules import ImageEvidence, ImageRule
from cxr.metrics.studies import ALL_CLASSES
from cxr.run_folder import RunFolder
from cxr.steps.postprocess import postprocess
from cxr.system.errors import InputError
from cxr.system.runtime import Runtime
from cxr.tasks import TASKS

TASK = TASKS["covid"]
METHOD = TASK.method
SCORER = TASK.dataset.scorer
LABELS = TASK.dataset.labels
SETTINGS = TASK.settings_of({"run": "own", "folds": 2})
RUNTIME = Runtime(torch.device("cpu"), "fp32")
CLASSES = np.eye(4)
FLAGS = (
    *("--task", "covid", "--demo", "--demo-images", "24", "--run", "tiny"),
    *("--folds", "2", "--epochs", "1", "--size", "96", "--image-size", "64"),
    *("--batch-size", "4", "--keep", "1", "--workers", "0", "--device", "cpu"),
    *("--tta", "flips", "--none-output", "--mixup", "0.4", "--image-rule", "eleventh"),
)

# ------------------------------------------------------------------------------- views


class Corner(torch.nn.Module):
    """Class 0 if the upper left quarter is bright, 1 the upper right one, 2 and 3 below."""

    image_size = 8

    def probabilities(self, logits):
        return logits.softmax(-1)

    def forward(self, images):
        quarters = adaptive_avg_pool2d(images.float(), 2).flatten(1)
        return {"label": quarters / 10}


@pytest.mark.parametrize("name, order", [("none", [0]), ("flip", [0, 1]), ("flips", [0, 1, 2, 3])])
def test_views(name, order):
    """Identity, left-right, upside down, both; each undoes itself.

    Probabilities are averaged, not logits.
    """
    model = Corner()
    images = torch.zeros(1, 1, 8, 8, dtype=torch.uint8)
    images[..., :4, :4] = 100
    classes = []
    probabilities = []
    for view in VIEW_SETS[name]:
        changed = METHOD.apply_view(images, view, model)
        assert torch.equal(METHOD.apply_view(changed, view, model), images)
        logits = model(changed)["label"]
        classes.append(int(logits.argmax()))
        probabilities.append(logits.softmax(-1)[0])
    assert classes == order
    merged = predict_batch([model], METHOD, VIEW_SETS[name], images, SETTINGS, RUNTIME)[0]
    assert torch.allclose(merged, torch.stack(probabilities).mean(0))
    assert float(merged.sum()) == pytest.approx(1)


def test_views_of_classes_are_not_for_boxes_and_masks():
    for name in ("rsna", "pneumothorax"):
        assert "flips" not in TASKS[name].method.view_sets


# ------------------------------------------------------------------------------- learning


def test_soft_labels_reach_the_loss(tmp_path):
    """Half one class, half another: the loss is the mean of both losses."""
    cv2.imwrite(str(tmp_path / "a.png"), np.zeros((64, 64), np.uint8))
    row = {"image_id": "a", "width": 64, "height": 64, "boxes": "[]", "box_labels": "[]"}
    row |= {"label": 0, "mask_known": False, "soft": "[0.5, 0.0, 0.5, 0.0]"}
    settings = SETTINGS.replace(pseudo="teacher", label_smoothing=0.0)
    content = METHOD.sample_content(settings)
    assert content == SampleContent(mask="boxes", soft_label=True)
    dataset = XrayDataset(pd.DataFrame([row]), tmp_path, 64, content)
    batch = collate([dataset[(0, 0)]])
    assert batch.soft_labels.tolist() == [[0.5, 0, 0.5, 0]]
    logits = torch.tensor([[1.0, 2.0, 4.0, 0.0]])
    losses = [cross_entropy(logits, torch.tensor([label])) for label in (0, 2)]
    terms = METHOD.loss({"label": logits}, batch, None, settings)
    assert float(terms["class"]) == pytest.approx(float(sum(losses)) / 2)


def batch_of_rows(count):
    """A batch of which only the rows of the table matter."""
    return Batch(
        images=torch.zeros(count, 1, 4, 4, dtype=torch.uint8),
        boxes=torch.zeros(count, 1, 4),
        labels=torch.full((count, 1), -1),
        image_labels=torch.zeros(count, dtype=torch.long),
        rows=torch.arange(count),
    )


def test_validation_sees_every_image_and_studies_are_not_mixed_up():
    """17th place: the last incomplete batch was dropped, and images of a study replaced each other
    where they were in one batch."""
    sampler = ResumableSampler(6, 4, 0, shuffle=False)
    assert [row for _, row in sampler] == [0, 1, 2, 3, 4, 5]
    assert sampler.batches() == 2
    table = pd.DataFrame({"study_id": ["s", "s", "t", "u", "v"], "label": [0, 0, 1, 2, 3]})
    probabilities = [
        [0.1, 0.7, 0.1, 0.1],
        [0.9, 0.04, 0.03, 0.03],
        [0.15, 0.55, 0.2, 0.1],
        [0.15, 0.1, 0.65, 0.1],
        [0.15, 0.1, 0.1, 0.65],
    ]
    outputs = {"label": torch.log(torch.tensor(probabilities))}
    predictions = METHOD.quick_predictions(outputs, batch_of_rows(5), Corner(), SETTINGS)
    assert len(predictions) == 5
    scores = SCORER.quick_score(predictions, table, SETTINGS, LABELS)
    names = ("metric", "ap_negative", "ap_typical", "ap_indeterminate", "ap_atypical")
    assert scores == dict.fromkeys(names, 1.0)

    # Without its second image the study s would be called typical, ahead of t, and be the last of
    # the negative ones.
    without_second = {row: predictions[row] for row in (0, 2, 3, 4)}
    scores = SCORER.quick_score(without_second, table, SETTINGS, LABELS)
    assert scores["ap_typical"] == 0.5
    assert scores["ap_negative"] == 0.25


def test_what_needs_masks_is_refused():
    words = ["--task", "covid", "--unlabelled", "other"]
    sentence = "--unlabelled is read by --task pneumothorax, lungs, own-masks and not by covid"
    with pytest.raises(InputError, match=sentence):
        read_command_line("train", "", words)


def test_networks_of_all_presets():
    for name in TASK.presets:
        settings = TASK.settings_of({"preset": name})
        image_size = settings.training.image_size
        if image_size >= 256:  # EfficientNetV2-L takes long to fill with random numbers
            continue
        model = METHOD.build_model(settings, LABELS, load_weights=False)
        assert model.image_size == image_size, name
        assert model.decoder is not None, name


def test_augmentations_of_all_presets():
    side = 64
    image = np.full((side, side), 128, np.uint8)
    mask = np.ones((side, side), np.uint8)
    annotated = AnnotatedImage(image, np.zeros((0, 4)), np.zeros(0, int), mask)
    for name in TASK.presets:
        settings = TASK.settings_of({"preset": name})
        augment = make_augmentation(settings.training.augmentation, side)
        changed = augment(annotated, np.random.default_rng(0))
        assert changed.image.shape == (side, side), name
        assert changed.mask.shape == (side, side), name
        assert set(np.unique(changed.mask)) <= {0, 1}, name
        assert not np.array_equal(changed.image, image), name


# ------------------------------------------------------------------------------- judging


def make_cases(noise=0.0, seed=0):
    """StudyCases of 24 studies of one or two images in two folds.

    noise: how unclearly the class of a study is told; 0: it is certain.
    """
    rng = np.random.default_rng(seed)
    cases = []
    for study in range(24):
        label = study % 4
        boxes = np.array([[1, 1, 5, 5]]) if label else np.zeros((0, 4))
        fold = study // 4 % 2
        for image in range(1 + study % 2):
            category = CLASSES[label] + noise * rng.random(4)
            category = (category / category.sum()).astype(np.float32)
            prediction = ClassPrediction(f"i{study}_{image}", 10, 10, category)
            cases.append(StudyCase(prediction, f"s{study}", label, boxes, fold, f"p{study}"))
    return cases


def judge(cases, boxes=None, settings=SETTINGS):
    """Evaluation of cases. boxes: {image_id: (boxes, scores)} of a detector."""
    judging = Judging(
        settings=settings,
        run=RunFolder.of(settings.place),
        folder=RunFolder.of(settings.place).judged(),
        labels=LABELS,
        table=pd.DataFrame({"fold": [case.fold for case in cases]}),
        further_boxes=boxes or {},
    )
    return SCORER.evaluate(lambda: iter(cases), judging)


def test_perfect_predictions():
    cases = make_cases()
    evaluation = judge(cases)
    assert evaluation.score == 1.0
    assert evaluation.interval == (1.0, 1.0)
    assert evaluation.counted == len(cases) == 36
    assert evaluation.figures == {
        "x 2/3, the studies' share of the competition's score": pytest.approx(2 / 3),
        "AP of none": 1.0,
        "competition's score without opacity boxes": pytest.approx(5 / 6),
    }
    assert evaluation.baselines[0].score == 0.25
    assert [result.fold for result in evaluation.folds] == [0, 1]
    assert (evaluation.images["score"] == 1).all()
    assert evaluation.images["caption"][0] == "negative, called negative (1.00)"
    assert [row["images"] for row in evaluation.class_rows] == [6, 6, 6, 6]
    assert evaluation.params == {}


def test_boxes_of_a_detector():
    cases = make_cases()
    boxes = {}
    for case in cases:
        boxes[case.prediction.image_id] = (case.boxes, np.full(len(case.boxes), 0.9))
    evaluation = judge(cases, boxes)
    assert evaluation.params == {}
    assert evaluation.figures["AP of opacity"] == 1
    assert evaluation.figures["competition's score"] == 1
    assert evaluation.predicted.corners["i1_0"].tolist() == [[1, 1, 5, 5]]
    assert evaluation.predicted.scores["i1_0"].tolist() == [0.9]


@pytest.mark.parametrize("name", ["third", "eleventh", "search"])
def test_rules_of_the_places(name):
    """The studies are told badly, `none` and the boxes well, and negative images have a false box.
    Every rule uses that, the searched one fitted on the other fold."""
    rng = np.random.default_rng(2)
    cases = []
    boxes = {}
    for case in make_cases(noise=3.0):
        image_id = case.prediction.image_id
        none = float(case.label == 0) * 0.8 + 0.1
        cases.append(replace(case, prediction=replace(case.prediction, none=none)))
        found = case.boxes if case.label else np.array([[4, 4, 9, 9]])
        boxes[image_id] = (found, rng.uniform(0.4, 0.6, len(found)))
    plain = judge(cases, boxes)
    evaluation = judge(cases, boxes, SETTINGS.replace(image_rule=name))
    assert evaluation.figures["AP of opacity"] > plain.figures["AP of opacity"]
    assert evaluation.params["image_rule"].keys() >= {"exponent", "share"}
    if name == "search":
        assert evaluation.score > plain.score
        assert evaluation.figures["AP of none"] == 1
        assert "the rule of --image-rule" in evaluation.how

    # The same rule for test images: their answer carries `none` behind the classes.
    of_test = evaluation.detect(replace(cases[0].prediction, none=0.25))
    assert of_test.shape == (5,)
    assert of_test[4] == 0.25
    test = pd.DataFrame({"image_id": ["a"], "study_id": ["s"], "width": 50, "height": 60})
    train = pd.DataFrame({"study_id": list("wxyz"), "label": [0, 1, 2, 3], "n_boxes": [0, 1, 1, 1]})
    sample = pd.DataFrame({"id": ["s_study", "a_image"], "PredictionString": ""})
    answers = {"a": np.array([0.4, 0.3, 0.2, 0.1, 0.9])}
    found = {"a": (np.array([[1, 2, 30, 40]]), np.array([0.5]))}
    rule = ImageRule(**evaluation.params["image_rule"])
    table = make_submission(sample, test, train, answers, found, rule)
    expected = ImageEvidence(np.array(["s"]), np.array([0.4]), np.array([0.9]), [found["a"][1]])
    study, image = (parse_predictions(text, ALL_CLASSES) for text in table["PredictionString"])
    assert image.scores.tolist() == pytest.approx(
        [rule.box_confidences(expected)[0][0], rule.none(expected)[0]], abs=1e-6
    )
    negative = rule.study_negatives(expected)["s"]
    assert study.scores.tolist() == pytest.approx([negative, 0.3, 0.2, 0.1], abs=1e-6)


def test_a_guess_that_ignores_the_image_is_chance():
    cases = []
    for case in make_cases():
        guess = replace(case.prediction, category=np.full(4, 0.25, np.float32))
        cases.append(replace(case, prediction=guess))
    assert judge(cases).score == pytest.approx(0.25)


def test_a_class_without_a_study_is_left_out():
    evaluation = judge([case for case in make_cases() if case.label != 3])
    assert evaluation.score == 1
    assert "No judged study is atypical" in evaluation.notes[0]
    assert len(evaluation.class_curves) == 3


def test_fit_on_is_refused():
    settings = SETTINGS.replace(fit_on="published")
    with pytest.raises(InputError, match="--fit-on published is impossible"):
        judge(make_cases(), settings=settings)
    with pytest.raises(InputError, match="--fit-on published is impossible"):
        TASK.check(settings)


def write_run(run, cases):
    """Predictions of a run: these out of fold, and the class 1 for the test image t."""
    for fold in (0, 1):
        predictions = [case.prediction for case in cases if case.fold == fold]
        write_part(run.fold(fold).valid_predictions("predictions"), 0, predictions)
    of_test = ClassPrediction("t", 9, 9, CLASSES[1].astype(np.float32))
    write_part(run.test_predictions("predictions"), 0, [of_test])


def test_other_runs_are_mixed_in(tmp_path):
    """The worse run is told what the better one knows.

    A fold's weights come from the other fold.
    """
    settings = SETTINGS.replace(working=tmp_path, stack=("better",))
    worse = make_cases(noise=4.0)
    better = make_cases(noise=0.5, seed=1)
    write_run(RunFolder.of(settings.place).task.run("better"), better)
    single = judge(worse, settings=settings.replace(stack=()))
    mixed = judge(worse, settings=settings)
    assert single.score < 0.9
    assert mixed.score > 0.9
    share = mixed.params["weights"]["better"]
    assert share > 0.3
    prediction = ClassPrediction("t", 9, 9, CLASSES[0].astype(np.float32))
    assert mixed.detect(prediction) == pytest.approx([1 - share, share, 0, 0])
    with pytest.raises(InputError, match="no test prediction of u"):
        mixed.detect(replace(prediction, image_id="u"))
    sentence = r"has no out-of-fold prediction of i0_0 .*run 04_predict\.py"
    with pytest.raises(InputError, match=sentence):
        judge(worse, settings=settings.replace(stack=("nobody",)))


def test_submission_has_boxes_and_means_of_studies():
    test = pd.DataFrame(
        {"image_id": ["a", "b", "c"], "study_id": ["s", "s", "t"], "width": 50, "height": 60}
    )
    train = pd.DataFrame({"study_id": list("wxyz"), "label": [0, 1, 2, 3], "n_boxes": [0, 1, 1, 1]})
    ids = ["s_study", "t_study", "gone_study", "c_image", "a_image", "b_image", "gone_image"]
    sample = pd.DataFrame({"id": ids, "PredictionString": ""})
    answers = {"a": np.array([0.8, 0.2, 0, 0]), "b": np.array([0.4, 0.2, 0.4, 0]), "c": CLASSES[3]}
    opacities = {"a": (np.array([[1, 2, 30, 40]]), np.array([0.5]))}
    table = make_submission(sample, test, train, answers, opacities)
    check_covid_submission(table, sample, dict.fromkeys("abc", (50, 60)))
    texts = dict(zip(table["id"], table["PredictionString"], strict=True))
    study = parse_predictions(texts["s_study"], ALL_CLASSES)
    assert study.scores == pytest.approx([0.6, 0.2, 0.2, 1e-6])
    gone_study = parse_predictions(texts["gone_study"], ALL_CLASSES)
    assert gone_study.scores == pytest.approx([0.25] * 4)
    # None of the image with a box: the mean of 0.6 and 1 - 0.5.
    assert texts["a_image"] == "opacity 0.500000 1 2 30 40 none 0.550000 0 0 1 1"
    assert texts["b_image"] == "none 0.800000 0 0 1 1"
    assert texts["gone_image"] == "none 0.250000 0 0 1 1"
    of_no_image = make_submission(sample, test[:0], train, {}, {})
    assert of_no_image["PredictionString"][0] == texts["gone_study"]


# ------------------------------------------------------------------------------- five steps


def write_small_covid(folder, n_train):
    return write_covid(folder, n_train=n_train, n_test=6, side=128)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The five steps at their smallest: source, task and run (folders), printed {step: text}."""
    root = tmp_path_factory.mktemp("covid")
    flags = (*FLAGS, "--input", root / "input", "--working", root / "working")
    further_flags = {"05_postprocess": ("--leaderboard", "0.5")}
    printed = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(covid_dataset, "write_covid", write_small_covid)
        for step in STEPS:
            status, printed[step] = run_here(step, *flags, *further_flags.get(step, ()))
            assert status == 0, f"{step}: {printed[step]}"
    task = root / "working" / "covid"
    return SimpleNamespace(
        source=root / "input" / TASK.dataset.slug,
        root=root,
        task=task,
        run=task / "tiny",
        printed=printed,
    )


@pytest.fixture
def copy(finished, tmp_path):
    return copy_of_run(finished, tmp_path, FLAGS)


def test_copies_stay_in_one_fold(finished):
    train = read_table(finished.task / "train.csv")
    for key in ("patient", "study_id", "cluster", "group"):
        assert train.groupby(key)["fold"].nunique().max() == 1, key
    assert train["cluster"].duplicated().any()
    assert (finished.task / "copies.png").stat().st_size
    # The copy in another patient's study.
    assert train.groupby("group")["patient"].nunique().max() > 1
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
    assert train["mask_known"].dtype == bool
    assert not train["mask_known"].all()


def test_a_folder_holds_the_result_of_one_cleaning_rule(copy):
    status, text = run_here("02_preprocess", *copy.flags, "--cleaning", "A")
    assert status == 1
    assert "was made with cleaning B, not A: choose another --working" in text


def test_log_and_predictions(finished):
    log = pd.read_csv(finished.run / "fold0" / "log.csv")
    figures = {"train_class", "train_bce", "train_dice", "valid_class"}
    figures |= {"metric", "ap_negative", "ap_atypical"}
    assert figures <= set(log)
    folder = finished.run / "fold0" / "valid_predictions"
    predictions = list(read_predictions(folder, ClassPrediction))
    train = read_table(finished.task / "train.csv")
    held_out = train.loc[train["fold"] == 0, "image_id"]
    assert [prediction.image_id for prediction in predictions] == held_out.tolist()
    for prediction in predictions:
        assert prediction.category.sum() == pytest.approx(1, abs=1e-5)


def test_scores_and_submission(finished):
    results = json.loads((finished.run / "results.json").read_text())
    assert 0 < results["score"] <= 1
    assert results["leaderboard"] == 0.5
    assert results["ap"]["opacity"] is None
    assert "leaderboard 0.5000" in finished.printed["05_postprocess"]
    table = pd.read_csv(finished.run / "submission.csv", dtype=str)
    assert list(table.columns) == ["id", "PredictionString"]
    check_covid_submission(table, read_covid_sample(finished.source), {})


def test_report(finished):
    page = (finished.run / "report.html").read_text(encoding="utf-8")
    for words in (
        "Each class",
        "Right: the study is not negative",
        "studies</small>",
        "leaderboard",
        "typical, called ",
        "AP of none",
    ):
        assert words in page
    assert "marked<br>boxes" not in page
    assert (finished.run / "gallery.png").stat().st_size


def test_step_5_again_and_with_itself_mixed_in(copy, monkeypatch):
    # The report is drawn once, in `finished`.
    monkeypatch.setattr(postprocess, "write_report", lambda path, *_: path)
    before = (copy.run / "submission.csv").read_bytes()
    for flags in ((), ("--stack", "tiny")):
        status, text = run_here("05_postprocess", *copy.flags, *flags)
        assert status == 0, text
        assert (copy.run / "submission.csv").read_bytes() == before


def test_views_that_a_task_cannot_undo_are_refused(copy):
    flags = ("--tta", "flip+scale", "--predictions", "other")
    status, text = run_here("04_predict", *copy.flags, *flags)
    assert status == 1
    assert "--tta flip+scale is not for a classifier: choose none, flip, flips" in text


def test_a_student_learns_classes_of_the_test_images(copy):
    flags = ("--run", "student", "--pseudo", "tiny", "--pseudo-ratio", "1")
    flags += ("--fold", "1", "--epochs", "2")
    status, text = run_here("03_train", *copy.flags, *flags)
    assert status == 0, text
    test = read_table(copy.task / "test.csv")
    folder = copy.run / "fold1" / "test_predictions"
    predictions = list(read_predictions(folder, ClassPrediction))
    assert [prediction.image_id for prediction in predictions] == test["image_id"].tolist()
    assert not (copy.run / "fold0" / "test_predictions").exists()
    assert len(pd.read_csv(copy.task / "student" / "fold1" / "log.csv")) == 2
