"""Pseudo labels: what a teacher saw is never held out, shown on labels that nothing can predict."""

import json

import cv2
import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.ensemble import ExtraTreesClassifier
from sklearn.metrics import average_precision_score

from cxr.data.external_images import set_name
from cxr.geometry.masks import EMPTY
from cxr.inference.checkpoint import save_state
from cxr.methods.base import Labels
from cxr.methods.classifier.method import Classifier
from cxr.methods.classifier.records import ClassPrediction
from cxr.methods.detector.method import Detector
from cxr.methods.detector.records import Candidates
from cxr.methods.pseudo_labels import add_classes, add_masks, describe_rows, mask_row
from cxr.methods.segmenter.records import MaskPrediction, pack_picture
from cxr.networks.network import Network
from cxr.run_folder import RunFolder
from cxr.steps.train.engine import fold_tables
from cxr.system.errors import InputError
from cxr.system.runtime import single_runtime
from cxr.tasks import TASKS, Task

FOLDS = 5
ROWS = 300
POSITIVE_SHARE = 0.557  # so the average precision of a guess

# --- nothing can be learned from noise


class Noise:
    """Rows whose labels are drawn, their folds, and external rows that are noisy copies of them."""

    def __init__(self):
        rng = np.random.default_rng(0)
        self.features = rng.standard_normal((ROWS, 8))
        self.labels = (rng.random(ROWS) < POSITIVE_SHARE).astype(int)
        self.folds = rng.permutation(np.arange(ROWS) % FOLDS)
        self.external = self.features + rng.normal(0, 0.05, self.features.shape)


def fit(features, labels, weights=None):
    return ExtraTreesClassifier(30, random_state=0).fit(features, labels, weights)


def teach(noise, fold, soft_labels):
    """A student of one fold. A soft label is both labels, each with its weight."""
    own = noise.folds != fold
    features = np.concatenate([noise.features[own], noise.external, noise.external])
    labels = np.concatenate([noise.labels[own], np.zeros(ROWS, int), np.ones(ROWS, int)])
    weights = np.concatenate([np.ones(own.sum()), soft_labels[:, 0], soft_labels[:, 1]])
    return fit(features, labels, weights)


def out_of_fold_ap(noise, students):
    scores = np.zeros(ROWS)
    for fold, student in enumerate(students):
        held_out = noise.folds == fold
        scores[held_out] = student.predict_proba(noise.features[held_out])[:, 1]
    return average_precision_score(noise.labels, scores)


def soft_labels_of(probabilities):
    """What a training table of one other image gets of external rows' probabilities (ROWS, 2)."""
    predictions = []
    for number, category in enumerate(probabilities):
        predictions.append(ClassPrediction(str(number), 10, 10, category))
    table = pd.DataFrame({"image_id": ["own"], "label": [1], "mask_known": [True]})
    table = add_classes(table, predictions)
    assert table["pseudo"].tolist() == [False] + [True] * ROWS
    assert json.loads(table["soft"][0]) == [0, 1]
    assert not table["mask_known"][1:].any()
    return np.array([json.loads(soft) for soft in table["soft"][1:]])


def test_nothing_is_learned_from_noise_but_by_leaking():
    """The mean of all teachers finds the labels of the held-out fold in the external images; the
    fold's own teacher does not."""
    noise = Noise()
    teachers = []
    for fold in range(FOLDS):
        own = noise.folds != fold
        teachers.append(fit(noise.features[own], noise.labels[own]))
    taught = np.array([teacher.predict_proba(noise.external) for teacher in teachers])
    of_all = soft_labels_of(taught.mean(axis=0))

    clean_students = []
    leaky_students = []
    for fold in range(FOLDS):
        clean_students.append(teach(noise, fold, soft_labels_of(taught[fold])))
        leaky_students.append(teach(noise, fold, of_all))
    assert abs(out_of_fold_ap(noise, teachers) - POSITIVE_SHARE) < 0.08
    assert abs(out_of_fold_ap(noise, clean_students) - POSITIVE_SHARE) < 0.08
    # So the check above would find a leak.
    assert out_of_fold_ap(noise, leaky_students) > 0.9


# --- who teaches whom


class Constant(Network):
    """Says the same of every image."""

    def __init__(self, value=0.0):
        super().__init__(image_size=32, pretrained=False)
        self.encoder = torch.nn.Identity()
        self.logits = torch.nn.Parameter(torch.tensor([value, 0.0, 0.0, 0.0]))

    def forward(self, images):
        return {"label": self.logits.expand(len(images), 4)}

    def probabilities(self, logits):
        return logits.softmax(-1)


class ConstantClassifier(Classifier):
    def build_model(self, settings, labels, load_weights=True):
        return Constant()


class ConstantTask(Task):
    method = ConstantClassifier()


COVID = TASKS["covid"]
TASK = ConstantTask("constant", "says the same", COVID.dataset_class, "classifier", {})
VALUE_OF_FOLD = (2.0, -2.0)  # two fold models that disagree


def write_table(working):
    """Two training images, a and b, each a fold, and the test image x. Returns the train table."""
    images = working / "constant" / "images"
    images.mkdir(parents=True)
    for name in "abx":
        cv2.imwrite(str(images / f"{name}.png"), np.zeros((32, 32), np.uint8))
    table = pd.DataFrame(
        {
            "image_id": list("abx"),
            "width": 32,
            "height": 32,
            "boxes": "[]",
            "box_labels": "[]",
            "label": [0, 1, -1],
            "fold": [0, 1, -1],
            "group": list("abx"),
            "mask_known": True,
        }
    )
    table[2:].to_csv(working / "constant" / "test.csv", index=False)
    table[:2].to_csv(working / "constant" / "train.csv", index=False)
    return table[:2]


def write_teacher(settings):
    run = RunFolder.of(settings.place)
    for number, value in enumerate(VALUE_OF_FOLD):
        fold = run.fold(number)
        fold.write_config(settings.plain())
        state = {
            "task": "constant",
            "config": settings.plain(),
            "model": Constant(value).state_dict(),
            "done": True,
        }
        save_state(fold.epoch(1), state)
        save_state(fold.last, state)


@pytest.mark.parametrize("external", [False, True])
def test_a_fold_is_taught_by_its_own_models_only(tmp_path, external):
    """Each fold's student gets its own model's word, unmixed, whatever --merge says.

    Of a test image, or of one from elsewhere.
    """
    table = write_table(tmp_path)
    further = "x"
    folder = tmp_path / "elsewhere" / "deep"
    if external:
        folder.mkdir(parents=True)
        noise = np.random.default_rng(0).integers(0, 255, (32, 32), dtype=np.uint8)
        cv2.imwrite(str(folder / "y.png"), noise)
        further = f"external/{set_name(folder.parent)}/deep/y.png"
    values = {
        "task": "constant",
        "working": tmp_path,
        "run": "student",
        "pseudo": "teacher",
        "merge": ("nobody",),
        "workers": 0,
        "device": "cpu",
        "precision": "fp32",
        "tta": "none",
        "folds": 2,
        "external": (str(folder.parent),) if external else (),
    }
    settings = TASK.make_settings(values)
    write_teacher(settings.replace(run="teacher", pseudo="", merge=()))
    runtime = single_runtime(settings.machine)
    for fold, value in enumerate(VALUE_OF_FOLD):
        tables = fold_tables(TASK, settings, table, fold, runtime)
        train = tables.train
        assert train["image_id"].tolist() == ["ab"[1 - fold], further]
        assert tables.valid["image_id"].tolist() == ["ab"[fold]]
        expected = torch.tensor([value, 0, 0, 0]).softmax(0).numpy()
        np.testing.assert_allclose(json.loads(train["soft"][1]), expected, atol=1e-6)
        assert train["label"][1] == (0 if value > 0 else 1)


# --- which images are learned


def predict_mask(image_id, lit, side=64):
    """A prediction whose first `lit` pixels are sure to belong to a finding."""
    probability = np.zeros((side, side))
    probability.ravel()[:lit] = 0.9
    return MaskPrediction(image_id, side, side, 0.5, pack_picture(probability, 0))


def test_only_clear_masks_are_learned():
    table = pd.DataFrame({"image_id": ["a"], "label": [1], "mask": ["0 1"]})
    predictions = [
        predict_mask("x1", 500),
        predict_mask("unsure", 200, side=2048),
        predict_mask("x2", 0),
    ]
    table = add_masks(table, predictions)
    assert table["image_id"].tolist() == ["a", "x1", "x2"]
    assert table["pseudo"].tolist() == [False, True, True]
    assert table["label"].tolist() == [1, 1, 0]
    assert table["mask"][2] == EMPTY
    lengths = table["mask"][1].split()[1::2]
    assert sum(map(int, lengths)) == 500


@pytest.mark.parametrize(
    "add, columns", [(add_masks, {"mask": ["0 1"]}), (add_classes, {"label": [1]})]
)
def test_nothing_to_learn(add, columns):
    with pytest.raises(InputError, match="--pseudo has nothing to learn from"):
        add(pd.DataFrame(columns), [])


# --- what a table of labels says


@pytest.mark.parametrize(
    "weak, lit, label",
    [
        (1, 500, 1),  # both say yes
        (1, 0, None),  # the run finds none
        (0, 500, 0),  # none, unchecked
        (-1, 500, None),  # the table does not know
        (-1, 0, None),
    ],
)
def test_masks_that_a_table_knows(weak, lit, label):
    row = mask_row(predict_mask("x", lit), weak)
    assert (row and row["label"]) == label
    if label == 0:
        assert row["mask"] == EMPTY


def test_classes_that_a_table_knows():
    table = pd.DataFrame({"image_id": ["own"], "label": [1], "mask_known": [True]})
    sure = np.array([0.1, 0.9])
    predictions = [ClassPrediction(name, 10, 10, sure) for name in ("yes", "no", "unknown", "?")]
    weak = {
        "yes": {"A": 0, "B": 1},
        "no": {"A": 1, "B": 0},
        "?": {"B": -1},
    }
    table = add_classes(table, predictions, weak, ("A", "B"))
    assert table["image_id"].tolist() == ["own", "yes", "unknown"]
    assert table["source"].tolist() == ["labelled", "test", "test"]


def candidates(image_id, scores, category=(0.1, 0.9)):
    """Boxes that do not overlap, with these scores."""
    count = len(scores)
    return Candidates(
        image_id=image_id,
        width=100,
        height=100,
        category=np.array(category),
        centre=np.array([(10.0 + 20 * number, 10.0) for number in range(count)]).reshape(-1, 2),
        size20=np.full((count, 2), 10.0),
        size80=np.full((count, 2), 10.0),
        score=np.array(scores, float),
        label=np.zeros(count, np.int16),
    )


def test_boxes_that_are_sure_and_agree():
    settings = TASKS["rsna"].make_settings({"pseudo": "teacher", "pseudo_score": 0.4})
    labels = Labels(("Opacity",), ("none", "opacity"))
    table = pd.DataFrame(
        {"image_id": ["a", "b"], "n_boxes": [1, 0], "label": [1, 0], "boxes": ["[]", "[]"]}
    )
    predictions = [
        candidates("two", (0.9, 0.5, 0.1)),
        candidates("doubtful", (0.3,)),
        candidates("none", (0.1,), category=(0.9, 0.1)),
        candidates("odd class", (0.1,)),
        candidates("denied", (0.9,)),
        candidates("table says none", (0.9,), category=(0.9, 0.1)),
        candidates("missed", (0.1,), category=(0.9, 0.1)),
    ]
    weak = {
        "denied": {"Opacity": -1},
        "table says none": {"Opacity": 0},
        "missed": {"Opacity": 1},
    }
    table = Detector().add_pseudo_labels(table, predictions, weak, settings, labels)
    assert table["image_id"].tolist() == ["a", "b", "two", "none", "table says none"]
    assert table["n_boxes"].tolist() == [1, 0, 2, 0, 0]
    assert table["label"].tolist() == [1, 0, 1, 0, 0]
    np.testing.assert_allclose(json.loads(table["boxes"][2]), [[5, 5, 15, 15], [25, 5, 35, 15]])
    assert "2 of class 0 from test" in describe_rows(table)

    # Where the class of the image is not learned, nobody asks for it.
    settings = settings.replace(global_weight=0.0)
    table = Detector().add_pseudo_labels(table[:2], predictions[2:4], {}, settings, labels)
    assert table["image_id"].tolist() == ["a", "b", "none", "odd class"]
    assert table["label"].tolist() == [1, 0, 0, 0]
