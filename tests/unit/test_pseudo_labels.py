"""Pseudo labels: what a teacher saw is never held out, shown on labels that nothing can predict."""

import json
from dataclasses import replace

import cv2
import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.ensemble import ExtraTreesClassifier
from sklearn.metrics import average_precision_score

from cxr.config import Config
from cxr.geometry.masks import EMPTY
from cxr.inference.checkpoint import plain_config, save_state
from cxr.methods.classifier.records import ClassPrediction
from cxr.methods.pseudo_labels import add_classes, add_masks
from cxr.methods.segmenter.records import MaskPrediction, pack_picture
from cxr.networks.network import Network
from cxr.steps.train.engine import training_tables
from cxr.system.disk import write_json
from cxr.system.errors import InputError
from cxr.tasks import TASKS

FOLDS = 5


def noise():
    """300 rows whose labels are drawn, folds, and external rows that are noisy copies of them."""
    rng = np.random.default_rng(0)
    features, labels = rng.standard_normal((300, 8)), (rng.random(300) < 0.557).astype(int)
    return (
        features,
        labels,
        rng.permutation(np.arange(300) % FOLDS),
        features + rng.normal(0, 0.05, features.shape),
    )


def fit(features, labels, weights=None):
    return ExtraTreesClassifier(30, random_state=0).fit(features, labels, weights)


def out_of_fold_ap(labels_of):
    """AP of students; `labels_of(fold, teachers' predictions)` gives the external rows' labels or None."""
    features, labels, folds, external = noise()
    teachers = [fit(features[folds != k], labels[folds != k]) for k in range(FOLDS)]
    taught, scores = (
        np.array([teacher.predict_proba(external) for teacher in teachers]),
        np.zeros(300),
    )
    for k in range(FOLDS):
        own, further = folds != k, labels_of(k, taught)
        if further is None:
            student = fit(features[own], labels[own])
        else:  # a soft label is both labels, each with its weight
            rows = np.concatenate([features[own], external, external])
            both = np.concatenate([labels[own], np.zeros(300, int), np.ones(300, int)])
            student = fit(
                rows, both, np.concatenate([np.ones(own.sum()), further[:, 0], further[:, 1]])
            )
        scores[~own] = student.predict_proba(features[~own])[:, 1]
    return average_precision_score(labels, scores)


def learned(predictions):
    """What a training table of one other image gets of external rows' probabilities (300, 2)."""
    found = [ClassPrediction(str(k), 10, 10, category) for k, category in enumerate(predictions)]
    table = add_classes(
        pd.DataFrame({"image_id": ["own"], "label": [1], "mask_known": [True]}), found
    )
    assert table["pseudo"].tolist() == [False] + [True] * 300 and json.loads(table["soft"][0]) == [
        0,
        1,
    ]
    assert not table["mask_known"][1:].any()
    return np.array([json.loads(soft) for soft in table["soft"][1:]])


def test_nothing_is_learned_from_noise_but_by_leaking():
    """The mean of all teachers finds the labels of the held-out fold in the external images; the fold's own does not."""
    plain = out_of_fold_ap(lambda fold, taught: None)
    clean = out_of_fold_ap(lambda fold, taught: learned(taught[fold]))
    leaky = out_of_fold_ap(lambda fold, taught: learned(taught.mean(axis=0)))
    assert abs(plain - 0.557) < 0.08 and abs(clean - 0.557) < 0.08
    assert leaky > 0.9  # so the check above would find a leak


class Constant(Network):
    """Says the same of every image."""

    def __init__(self, value=0.0):
        super().__init__(image_size=32, pretrained=False)
        self.logits = torch.nn.Parameter(torch.tensor([value, 0.0, 0.0, 0.0]))

    def forward(self, images):
        return {"label": self.logits.expand(len(images), 4)}


class ConstantTask(type(TASKS["covid"])):
    name = "constant"

    def build_model(self, config, load_weights=True):
        return Constant()


def test_a_fold_is_taught_by_its_own_models_only(tmp_path):
    """Two fold models that disagree; each fold's student gets its own model's word, unmixed, whatever --merge says."""
    (tmp_path / "constant" / "images").mkdir(parents=True)
    for name in "abx":
        cv2.imwrite(
            str(tmp_path / "constant" / "images" / f"{name}.png"), np.zeros((32, 32), np.uint8)
        )
    rows = pd.DataFrame(
        {
            "image_id": list("abx"),
            "width": 32,
            "height": 32,
            "boxes": "[]",
            "box_labels": "[]",
            "label": [0, 1, -1],
            "fold": [0, 1, -1],
            "mask_known": True,
        }
    )
    rows[2:].to_csv(tmp_path / "constant" / "test.csv", index=False)
    base = Config(
        task="constant",
        working=tmp_path,
        run="student",
        pseudo="teacher",
        merge=("nobody",),
        workers=0,
        device="cpu",
        precision="fp32",
        tta="none",
        folds=2,
    )
    teacher = replace(base, run="teacher", pseudo="", merge=())
    for fold, value in ((0, 2.0), (1, -2.0)):
        write_json(teacher.fold_dir(fold) / "config.json", plain_config(teacher))
        state = {
            "task": "constant",
            "config": plain_config(teacher),
            "model": Constant(value).state_dict(),
            "done": True,
        }
        for name in ("epoch001.pt", "last.pt"):
            save_state(teacher.fold_dir(fold) / name, state)
    for fold, value in ((0, 2.0), (1, -2.0)):
        train, valid = training_tables(
            ConstantTask(), base, rows[:2], fold, torch.device("cpu"), "fp32"
        )
        assert train["image_id"].tolist() == ["ab"[1 - fold], "x"] and valid[
            "image_id"
        ].tolist() == ["ab"[fold]]
        expected = torch.tensor([value, 0, 0, 0]).softmax(0).numpy()
        np.testing.assert_allclose(json.loads(train["soft"][1]), expected, atol=1e-6)
        assert train["label"][1] == (0 if value > 0 else 1)


def predict(image_id, lit, side=64):
    probability = np.zeros((side, side))
    probability.ravel()[:lit] = 0.9
    return MaskPrediction(image_id, side, side, 0.5, pack_picture(probability, 0))


def test_only_clear_masks_are_learned():
    table = pd.DataFrame({"image_id": ["a"], "label": [1], "mask": ["0 1"]})
    table = add_masks(table, [predict("x1", 500), predict("unsure", 200, 2048), predict("x2", 0)])
    assert table["image_id"].tolist() == ["a", "x1", "x2"] and table["pseudo"].tolist() == [
        False,
        True,
        True,
    ]
    assert table["label"].tolist() == [1, 1, 0] and table["mask"][2] == EMPTY
    assert sum(map(int, table["mask"][1].split()[1::2])) == 500


@pytest.mark.parametrize(
    "add, columns", [(add_masks, {"mask": ["0 1"]}), (add_classes, {"label": [1]})]
)
def test_nothing_to_learn(add, columns):
    with pytest.raises(InputError, match="--pseudo has nothing to learn from"):
        add(pd.DataFrame(columns), [])
