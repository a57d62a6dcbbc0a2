"""The batched losses against a loop over images, one anchor after the other, and against values by hand."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from cxr.data.dataset import collate
from cxr.geometry.anchors import make_anchors
from cxr.methods.detector.losses import detection_loss, focal, global_loss
from cxr.methods.detector.matching import Matcher

ANCHORS = make_anchors(64, [4, 5])


def overlap(a, b):
    """IoU of two boxes, as lists of four numbers."""
    width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    inter = max(width, 0) * max(height, 0)
    return inter / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - inter)


def loss_of_one_image(logits, deltas, anchors, boxes, labels):
    """Class and box loss of one image in plain Python: logits (A, K), deltas (A, 4), boxes (n, 4), labels (n,)."""
    class_sum, box_sum, positives = 0.0, 0.0, 0
    for a, anchor in enumerate(anchors):
        values = [overlap(anchor, box) for box in boxes]
        best = max(values, default=0.0)
        if 0.4 <= best < 0.5:
            continue
        found = values.index(best) if best >= 0.5 else None
        for k, logit in enumerate(logits[a]):
            p = min(max(1 / (1 + math.exp(-logit)), 1e-4), 1 - 1e-4)
            true = found is not None and labels[found] == k
            class_sum -= (
                0.25 * (1 - p) ** 2 * math.log(p) if true else 0.75 * p**2 * math.log(1 - p)
            )
        if found is not None:
            positives += 1
            width, height = anchor[2] - anchor[0], anchor[3] - anchor[1]
            box = boxes[found]
            goal = [
                ((box[0] + box[2]) - (anchor[0] + anchor[2])) / 2 / width / 0.1,
                ((box[1] + box[3]) - (anchor[1] + anchor[3])) / 2 / height / 0.1,
                math.log((box[2] - box[0]) / width) / 0.2,
                math.log((box[3] - box[1]) / height) / 0.2,
            ]
            errors = [abs(x - y) for x, y in zip(deltas[a], goal)]
            box_sum += sum(4.5 * e * e if e < 1 / 9 else e - 1 / 18 for e in errors) / 4
    return class_sum / max(1, positives), box_sum / max(1, positives)


def random_batch(seed, counts, classes=2):
    """Outputs for ANCHORS and a list of (boxes, labels) of images with so many boxes."""
    rng = np.random.default_rng(seed)
    scores = torch.tensor(
        rng.normal(-1, 2, (len(counts), len(ANCHORS), classes)), dtype=torch.float32
    )
    deltas = torch.tensor(rng.normal(0, 1, (len(counts), len(ANCHORS), 4)), dtype=torch.float32)
    true = []
    for count in counts:
        corner, size = rng.uniform(0, 30, (count, 2)), rng.uniform(20, 120, (count, 2))
        true.append((np.concatenate([corner, corner + size], 1), rng.integers(0, classes, count)))
    return scores, deltas, true


def targets(true, anchors=ANCHORS):
    """What the loader makes of a list of (boxes, labels) of images."""
    samples = []
    for boxes, labels in true:
        boxes, labels = (
            torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4),
            torch.tensor(labels).long(),
        )
        samples.append(
            {
                "image": torch.zeros(1),
                "boxes": boxes,
                "labels": labels,
                "label": 0,
                "index": 0,
                **Matcher(anchors)(boxes, labels),
            }
        )
    return collate(samples)


def positives(matched, images):
    return [int((matched["positive_image"] == i).sum()) for i in range(images)]


@settings(max_examples=12, deadline=None)
@given(st.integers(0, 10**6), st.lists(st.integers(0, 3), min_size=1, max_size=3))
def test_batched_is_the_mean_of_the_loop(seed, counts):
    scores, deltas, true = random_batch(seed, counts)
    terms = detection_loss(scores, deltas, targets(true))
    single = [
        loss_of_one_image(
            scores[i].tolist(), deltas[i].tolist(), ANCHORS.tolist(), b.tolist(), c.tolist()
        )
        for i, (b, c) in enumerate(true)
    ]
    expected = np.mean(single, axis=0)
    assert float(terms["class"]) == pytest.approx(expected[0], rel=1e-4)
    assert float(terms["box"]) == pytest.approx(expected[1], rel=1e-4, abs=1e-7)


def test_dividing_by_the_running_mean_of_positives():
    """The sums over the images, from the loop, divided by the images and by the mean, which moved by one fiftieth."""
    counts = [3, 0, 1]
    scores, deltas, true = random_batch(3, counts)
    matched = targets(true)
    each = positives(matched, 3)
    assert each[0] != each[2] and min(each[0], each[2]) > 0
    sums = [
        np.array(
            loss_of_one_image(
                scores[i].tolist(), deltas[i].tolist(), ANCHORS.tolist(), b.tolist(), c.tolist()
            )
        )
        * max(1, each[i])
        for i, (b, c) in enumerate(true)
    ]
    running = torch.tensor(10.0)
    terms = detection_loss(scores, deltas, matched, running)
    mean = 10 * 49 / 50 + sum(each) / 3 / 50
    assert float(running) == pytest.approx(mean)
    assert [float(terms["class"]), float(terms["box"])] == pytest.approx(
        (sum(sums) / 3 / mean).tolist(), rel=1e-4
    )
    empty = detection_loss(scores[1:2], deltas[1:2], targets(true[1:2]), running)
    assert (
        float(empty["class"]) == pytest.approx(sums[1][0] / (mean * 49 / 50), rel=1e-4)
        and empty["box"] == 0
    )


def test_the_running_mean_ends_at_the_mean():
    scores, deltas, true = random_batch(3, [3, 1])
    matched, running = targets(true), torch.tensor(10.0)
    for _ in range(600):
        detection_loss(scores, deltas, matched, running)
    assert float(running) == pytest.approx(len(matched["positive"]) / 2, rel=1e-3)


def test_the_random_batches_hold_every_kind_of_anchor():
    """Else the comparison above would compare nothing."""
    matched = targets(random_batch(0, [3, 3, 3])[2])
    assert len(matched["positive"]) and len(matched["ignored"])
    assert len(matched["positive"]) + len(matched["ignored"]) < 3 * len(ANCHORS)


def test_images_without_boxes_take_part():
    """One anchor with probability 0.5 costs 0.75 * 0.25 * log 2, the others (clamped to 1e-4) next to nothing."""
    scores = torch.full((2, len(ANCHORS), 1), -20.0)
    scores[1, 7] = 0.0
    terms = detection_loss(
        scores, torch.zeros(2, len(ANCHORS), 4), targets([(np.zeros((0, 4)), [])] * 2)
    )
    assert (
        float(terms["class"]) == pytest.approx(0.75 * 0.25 * math.log(2) / 2, abs=1e-6)
        and terms["box"] == 0
    )


def test_a_batch_without_any_box_has_gradients():
    scores = torch.zeros(2, len(ANCHORS), 1, requires_grad=True)
    deltas = torch.zeros(2, len(ANCHORS), 4, requires_grad=True)
    terms = detection_loss(scores, deltas, targets([(np.zeros((0, 4)), [])] * 2))
    sum(terms.values()).backward()
    assert (scores.grad > 0).all() and (deltas.grad == 0).all()


def test_positives_divide_the_class_loss():
    """Two equal boxes of a level's anchor: every anchor's loss is known, and the sum is divided by the positives."""
    matched = targets([(ANCHORS[9 * 5 + 1].numpy()[None], [0])])
    assert 9 * 5 + 1 in matched["positive"]
    terms = detection_loss(
        torch.zeros(1, len(ANCHORS), 1), torch.zeros(1, len(ANCHORS), 4), matched
    )
    positive = len(matched["positive"])
    negative = len(ANCHORS) - positive - len(matched["ignored"])
    assert float(terms["class"]) == pytest.approx(
        (0.25 * positive + 0.75 * negative) * 0.25 * math.log(2) / positive, rel=1e-5
    )


@pytest.mark.parametrize(
    "logit, target, expected",
    [
        (0.0, True, 0.25 * 0.25 * math.log(2)),
        (0.0, False, 0.75 * 0.25 * math.log(2)),
        (math.log(9), True, 0.25 * 0.01 * -math.log(0.9)),
        (math.log(9), False, 0.75 * 0.81 * -math.log(0.1)),
        (-100.0, True, 0.25 * 0.9999**2 * -math.log(1e-4)),
        (100.0, True, 0.25 * 1e-8 * -math.log(0.9999)),
    ],
)
def test_focal_by_hand(logit, target, expected):
    value = focal(torch.tensor([logit], dtype=torch.float64), target)
    assert float(value) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(
    "offset, expected", [(0.05, 4.5 * 0.05**2), (1.0, 1 - 1 / 18), (-2.0, 2 - 1 / 18)]
)
def test_smooth_l1_by_hand(offset, expected):
    """One anchor that is the box itself: its goal is 0, and all four outputs are wrong by `offset`."""
    matched = targets([(ANCHORS[9:10].numpy(), [0])], ANCHORS[9:10])
    terms = detection_loss(torch.zeros(1, 1, 1), torch.full((1, 1, 4), offset), matched)
    assert float(terms["box"]) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("logit", [-1e4, 1e4])
def test_extreme_logits_stay_finite(logit):
    scores = torch.full((2, len(ANCHORS), 2), logit, requires_grad=True)
    deltas = torch.full((2, len(ANCHORS), 4), logit, requires_grad=True)
    _, _, true = random_batch(2, [2, 0])
    terms = detection_loss(scores, deltas, targets(true))
    sum(terms.values()).backward()
    assert all(t.isfinite() for t in terms.values())
    assert scores.grad.isfinite().all() and deltas.grad.isfinite().all()


def test_global_loss():
    logits = torch.tensor([[0.0, 0, 0], [5, 1, -2], [1, 2, 3]])
    assert float(global_loss(logits[:1], torch.tensor([1]))) == pytest.approx(math.log(3))
    known = F.cross_entropy(logits[[0, 2]], torch.tensor([1, 2]))
    assert float(global_loss(logits, torch.tensor([1, -1, 2]))) == pytest.approx(float(known))


def test_global_loss_without_any_known_class():
    logits = torch.ones(2, 3, requires_grad=True)
    loss = global_loss(logits, torch.tensor([-1, -1]))
    loss.backward()
    assert loss == 0 and (logits.grad == 0).all()
