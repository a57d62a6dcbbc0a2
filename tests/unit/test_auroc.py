"""AUROC against scikit-learn and by hand; calibration by hand; the multilabel loss by hand."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from cxr.methods.classifier.losses import multilabel_loss
from cxr.metrics.auroc import auroc, calibration_error


def test_by_hand():
    # Positive 0.8, 0.4; negative 0.4, 0.1: pairs won 1, 1, 1/2, 1.
    assert auroc([1, 1, 0, 0], [0.8, 0.4, 0.4, 0.1]) == pytest.approx(3.5 / 4)
    assert math.isnan(auroc([1, 1], [0.8, 0.4]))


@given(
    st.lists(
        st.tuples(st.booleans(), st.integers(0, 5), st.integers(0, 3)), min_size=2, max_size=30
    )
)
def test_as_scikit_learn(rows):
    positive, scores, weights = (np.array(column) for column in zip(*rows, strict=True))
    counted = weights > 0
    if len(set(positive[counted].tolist())) < 2:
        assert math.isnan(auroc(positive, scores, weights))
        return
    expected = roc_auc_score(positive, scores, sample_weight=weights)
    assert auroc(positive, scores, weights) == pytest.approx(expected)


def test_calibration_by_hand():
    # Two bins: (0.2, 0.2; one positive of two) off by 0.3, (0.9; positive) off by 0.1.
    assert calibration_error([1, 0, 1], [0.2, 0.2, 0.9]) == pytest.approx((2 * 0.3 + 0.1) / 3)


def test_multilabel_loss_by_hand():
    logits = torch.tensor([[0.0, math.log(3)]])
    batch = SimpleNamespace(soft_labels=torch.tensor([[1.0, 0.0]]))
    expected = (math.log(2) + math.log(4)) / 2
    assert float(multilabel_loss(logits, batch, 0.0)) == pytest.approx(expected)
    smoothed = (math.log(2) + 0.95 * math.log(4) + 0.05 * math.log(4 / 3)) / 2
    assert float(multilabel_loss(logits, batch, 0.1)) == pytest.approx(smoothed)
