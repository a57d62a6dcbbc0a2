"""Doubt of answers: entropy of the merged one, disagreement of the folds, for all methods."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from cxr.datasets.own.answers import write_to_label
from cxr.geometry.detections import Detections
from cxr.methods.classifier.method import Classifier
from cxr.methods.classifier.records import ClassPrediction
from cxr.methods.detector.method import Detector
from cxr.methods.segmenter.method import Segmenter
from cxr.methods.segmenter.records import MaskPrediction, pack_picture
from cxr.metrics.doubt import Doubt, disagreement, entropy, largest_doubt


def same(prediction):
    """A rule that changes nothing."""
    return prediction


def test_entropy_by_hand():
    assert entropy([0.5, 0.25, 1.0]).tolist() == pytest.approx([1, 0.8112781, 0], abs=1e-6)


def test_disagreement_by_hand():
    """Sure and opposed: all. Unsure alike: none. Between: H(0.5) - (H(0.25) + H(0.75)) / 2."""
    by_fold = [[0.0, 0.5, 0.25], [1.0, 0.5, 0.75]]
    expected = [1, 0, 1 - 0.8112781]
    assert disagreement(by_fold).tolist() == pytest.approx(expected, abs=1e-6)


def test_without_questions_or_folds():
    assert largest_doubt(np.zeros(0), np.zeros((2, 0))) == Doubt(0.0, 0.0)
    assert largest_doubt(np.array([0.5]), []) == Doubt(1.0, None)
    assert largest_doubt(np.array([0.5]), [[0.5]]) == Doubt(1.0, None)


def test_classes():
    """The most doubtful class counts, for each of the two figures."""

    def says(*probabilities):
        return ClassPrediction("a", 8, 8, np.array(probabilities))

    doubt = Classifier().doubt(says(0.5, 0.5), [says(0.5, 0.1), says(0.5, 0.9)], same)
    assert doubt.entropy == pytest.approx(1)
    assert doubt.disagreement == pytest.approx(1 - float(entropy(0.1)))


def boxes(*rows):
    """Detections of rows x1 y1 x2 y2 score label."""
    table = np.array(rows, float).reshape(-1, 6)
    return Detections(table[:, :4], table[:, 4], table[:, 5].astype(int))


def test_boxes():
    """What a fold says of a box: its box there of the same class, and of no other."""
    merged = boxes([0, 0, 10, 10, 0.5, 0], [50, 50, 60, 60, 0.9, 1])
    near = boxes([1, 0, 10, 10, 0.99, 0], [50, 50, 60, 60, 0.9, 1])
    other = boxes([0, 0, 10, 10, 0.99, 1], [50, 50, 60, 60, 0.9, 1], [30, 0, 40, 10, 0.9, 0])
    agreed = Detector().doubt(merged, [near, near], same)
    assert agreed.entropy == pytest.approx(1)
    assert agreed.disagreement == pytest.approx(0)
    apart = Detector().doubt(merged, [near, other], same).disagreement
    assert apart == pytest.approx(float(disagreement([0.99, 0.0])))
    assert Detector().doubt(merged, [near, boxes()], same).disagreement == pytest.approx(apart)
    assert Detector().doubt(boxes(), [near, other], same) == Doubt(0.0, 0.0)


def mask(probability, head, columns=slice(0, 4)):
    """A prediction of 8 x 8 pixels with one probability in some columns."""
    picture = np.zeros((8, 8))
    picture[:, columns] = probability
    return MaskPrediction("a", 8, 8, head, pack_picture(picture, 0))


def test_masks():
    """The mean over the pixels that a fold marks, or the image score, whichever is more."""
    left = mask(1.0, 0.9)
    right = mask(1.0, 0.9, slice(4, 8))
    merged = mask(0.6, 0.9)
    assert Segmenter().doubt(merged, [left, left], same).disagreement == pytest.approx(0, abs=1e-6)
    assert Segmenter().doubt(merged, [left, right], same).disagreement == pytest.approx(1)
    assert Segmenter().doubt(merged, [], same) == (pytest.approx(float(entropy(0.6))), None)
    apart = Segmenter().doubt(merged, [mask(0.1, 0.0), mask(0.1, 1.0)], same)
    assert apart.disagreement == pytest.approx(1)


def request_of(folder, doubts):
    """What step 05 hands over, as far as to_label.csv reads it."""
    judging = SimpleNamespace(folder=SimpleNamespace(path=folder))
    return SimpleNamespace(judging=judging, doubts=doubts, warnings=[])


def test_the_order_of_to_label(tmp_path, capsys):
    doubts = {"a": Doubt(0.9, 0.1), "b": Doubt(0.2, 0.5), "c": Doubt(0.95, 0.1)}
    request = request_of(tmp_path, doubts)
    write_to_label(request)
    table = pd.read_csv(tmp_path / "to_label.csv")
    assert table.columns.tolist() == ["image_id", "disagreement", "entropy"]
    assert table["image_id"].tolist() == ["b", "c", "a"]
    assert not request.warnings

    request = request_of(tmp_path, {"a": Doubt(0.2, None), "b": Doubt(0.9, None)})
    write_to_label(request)
    table = pd.read_csv(tmp_path / "to_label.csv")
    assert table["image_id"].tolist() == ["b", "a"]
    assert table["disagreement"].isna().all()
    assert "order of the entropy" in request.warnings[0]
    assert "order of the entropy" in capsys.readouterr().out

    write_to_label(request_of(tmp_path, {}))
    assert pd.read_csv(tmp_path / "to_label.csv").empty
