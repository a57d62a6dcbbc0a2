"""Batched losses against a loop over images, one anchor after the other, and by hand."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from cxr.data.batch import Sample, collate
from cxr.geometry.anchors import make_anchors
from cxr.methods.detector.losses import LossKind, detection_loss, focal_loss, global_loss
from cxr.methods.detector.matching import Matcher

ANCHORS = make_anchors(64, [4, 5])
NO_BOXES = (np.zeros((0, 4)), [])


def overlap(a, b):
    """IoU of two boxes, as lists of four numbers."""
    width = max(min(a[2], b[2]) - max(a[0], b[0]), 0)
    height = max(min(a[3], b[3]) - max(a[1], b[1]), 0)
    intersection = width * height
    area_a = (a[2] - a[0]) * (a[3] - a[1])
    area_b = (b[2] - b[0]) * (b[3] - b[1])
    return intersection / (area_a + area_b - intersection)


def loop_focal(logit, is_true):
    p = 1 / (1 + math.exp(-logit))
    p = min(max(p, 1e-4), 1 - 1e-4)
    if is_true:
        return -0.25 * (1 - p) ** 2 * math.log(p)
    return -0.75 * p**2 * math.log(1 - p)


def loop_smooth_l1(deltas, anchor, box):
    width = anchor[2] - anchor[0]
    height = anchor[3] - anchor[1]
    goal = [
        ((box[0] + box[2]) - (anchor[0] + anchor[2])) / 2 / width / 0.1,
        ((box[1] + box[3]) - (anchor[1] + anchor[3])) / 2 / height / 0.1,
        math.log((box[2] - box[0]) / width) / 0.2,
        math.log((box[3] - box[1]) / height) / 0.2,
    ]
    total = 0.0
    for delta, wanted in zip(deltas, goal, strict=True):
        error = abs(delta - wanted)
        total += 4.5 * error * error if error < 1 / 9 else error - 1 / 18
    return total / 4


def loop_loss(logits, deltas, boxes, labels):
    """Class and box loss of one image in plain Python: logits (A, K), deltas (A, 4), boxes (n, 4),
    labels (n,), as lists."""
    class_sum = 0.0
    box_sum = 0.0
    positives = 0
    for a, anchor in enumerate(ANCHORS.tolist()):
        overlaps = [overlap(anchor, box) for box in boxes]
        best = max(overlaps, default=0.0)
        if 0.4 <= best < 0.5:
            continue
        owner = overlaps.index(best) if best >= 0.5 else None
        for label, logit in enumerate(logits[a]):
            class_sum += loop_focal(logit, owner is not None and labels[owner] == label)
        if owner is not None:
            positives += 1
            box_sum += loop_smooth_l1(deltas[a], anchor, boxes[owner])
    return class_sum / max(1, positives), box_sum / max(1, positives)


def random_outputs(seed, counts, classes=2):
    """Scores, deltas, and a list of (boxes, labels), for images with so many boxes."""
    rng = np.random.default_rng(seed)
    scores = rng.normal(-1, 2, (len(counts), len(ANCHORS), classes))
    deltas = rng.normal(0, 1, (len(counts), len(ANCHORS), 4))
    true = []
    for count in counts:
        corner = rng.uniform(0, 30, (count, 2))
        size = rng.uniform(20, 120, (count, 2))
        boxes = np.concatenate([corner, corner + size], 1)
        true.append((boxes, rng.integers(0, classes, count)))
    return torch.tensor(scores).float(), torch.tensor(deltas).float(), true


def make_batch(true, anchors=ANCHORS):
    """What the loader makes of a list of (boxes, labels) of images."""
    matcher = Matcher(anchors)
    samples = []
    for row, (boxes, labels) in enumerate(true):
        boxes = torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4)
        labels = torch.tensor(labels).long()
        samples.append(
            Sample(
                image=torch.zeros(1),
                boxes=boxes,
                labels=labels,
                label=0,
                row=row,
                target=matcher(boxes, labels),
            )
        )
    return collate(samples)


def loop_losses(scores, deltas, true):
    """Class and box loss of each image, (B, 2)."""
    losses = []
    for i, (boxes, labels) in enumerate(true):
        losses.append(
            loop_loss(scores[i].tolist(), deltas[i].tolist(), boxes.tolist(), labels.tolist())
        )
    return np.array(losses)


def count_positives(batch):
    return torch.bincount(batch.target_image["positive"], minlength=len(batch)).tolist()


@settings(max_examples=12, deadline=None)
@given(st.integers(0, 10**6), st.lists(st.integers(0, 3), min_size=1, max_size=3))
def test_batched_is_the_mean_of_the_loop(seed, counts):
    scores, deltas, true = random_outputs(seed, counts)
    terms = detection_loss(scores, deltas, make_batch(true))
    class_loss, box_loss = loop_losses(scores, deltas, true).mean(axis=0)
    assert float(terms["class"]) == pytest.approx(class_loss, rel=1e-4)
    assert float(terms["box"]) == pytest.approx(box_loss, rel=1e-4, abs=1e-7)


def test_dividing_by_the_running_mean_of_positives():
    """Sums over the images, from the loop, divided by the images and by the mean, which moved by
    one fiftieth."""
    scores, deltas, true = random_outputs(3, [3, 0, 1])
    batch = make_batch(true)
    positives = count_positives(batch)
    assert positives[0] != positives[2]
    assert min(positives[0], positives[2]) > 0

    sums = loop_losses(scores, deltas, true) * np.maximum(1, positives)[:, None]
    running = torch.tensor(10.0)
    terms = detection_loss(scores, deltas, batch, running)
    mean = 10 * 49 / 50 + sum(positives) / 3 / 50
    assert float(running) == pytest.approx(mean)
    class_loss, box_loss = sums.sum(axis=0) / 3 / mean
    assert float(terms["class"]) == pytest.approx(class_loss, rel=1e-4)
    assert float(terms["box"]) == pytest.approx(box_loss, rel=1e-4)

    empty = detection_loss(scores[1:2], deltas[1:2], make_batch(true[1:2]), running)
    assert float(empty["class"]) == pytest.approx(sums[1][0] / (mean * 49 / 50), rel=1e-4)
    assert empty["box"] == 0


def test_the_running_mean_ends_at_the_mean():
    scores, deltas, true = random_outputs(3, [3, 1])
    batch = make_batch(true)
    running = torch.tensor(10.0)
    for _ in range(600):
        detection_loss(scores, deltas, batch, running)
    assert float(running) == pytest.approx(len(batch.target["positive"]) / 2, rel=1e-3)


def test_the_random_batches_hold_every_kind_of_anchor():
    """Else the comparison above would compare nothing."""
    target = make_batch(random_outputs(0, [3, 3, 3])[2]).target
    assert len(target["positive"])
    assert len(target["ignored"])
    assert len(target["positive"]) + len(target["ignored"]) < 3 * len(ANCHORS)


def test_images_without_boxes_take_part():
    """One anchor with probability 0.5 costs 0.75 * 0.25 * log 2, the others (clamped to 1e-4) next
    to nothing."""
    scores = torch.full((2, len(ANCHORS), 1), -20.0)
    scores[1, 7] = 0.0
    deltas = torch.zeros(2, len(ANCHORS), 4)
    terms = detection_loss(scores, deltas, make_batch([NO_BOXES] * 2))
    assert float(terms["class"]) == pytest.approx(0.75 * 0.25 * math.log(2) / 2, abs=1e-6)
    assert terms["box"] == 0


def test_a_batch_without_any_box_has_gradients():
    scores = torch.zeros(2, len(ANCHORS), 1, requires_grad=True)
    deltas = torch.zeros(2, len(ANCHORS), 4, requires_grad=True)
    terms = detection_loss(scores, deltas, make_batch([NO_BOXES] * 2))
    sum(terms.values()).backward()
    assert (scores.grad > 0).all()
    assert (deltas.grad == 0).all()


def test_positives_divide_the_class_loss():
    """The box is an anchor: every anchor's loss is known, and the sum is divided by the
    positives."""
    number = 9 * 5 + 1
    batch = make_batch([(ANCHORS[number].numpy()[None], [0])])
    assert number in batch.target["positive"]
    scores = torch.zeros(1, len(ANCHORS), 1)
    terms = detection_loss(scores, torch.zeros(1, len(ANCHORS), 4), batch)
    positive = len(batch.target["positive"])
    negative = len(ANCHORS) - positive - len(batch.target["ignored"])
    total = (0.25 * positive + 0.75 * negative) * 0.25 * math.log(2)
    assert float(terms["class"]) == pytest.approx(total / positive, rel=1e-5)


@pytest.mark.parametrize(
    "logit, target, expected",
    [
        (0.0, 1, 0.25 * 0.25 * math.log(2)),
        (0.0, 0, 0.75 * 0.25 * math.log(2)),
        (math.log(9), 1, 0.25 * 0.01 * -math.log(0.9)),
        (math.log(9), 0, 0.75 * 0.81 * -math.log(0.1)),
        (-100.0, 1, 0.25 * 0.9999**2 * -math.log(1e-4)),
        (100.0, 1, 0.25 * 1e-8 * -math.log(0.9999)),
    ],
)
def test_focal_loss_by_hand(logit, target, expected):
    loss = focal_loss(torch.tensor([logit], dtype=torch.float64), target)
    assert float(loss) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(
    "offset, expected", [(0.05, 4.5 * 0.05**2), (1.0, 1 - 1 / 18), (-2.0, 2 - 1 / 18)]
)
def test_smooth_l1_by_hand(offset, expected):
    """One anchor that is the box itself: its goal is 0, and all four outputs are wrong by
    `offset`."""
    batch = make_batch([(ANCHORS[9:10].numpy(), [0])], ANCHORS[9:10])
    terms = detection_loss(torch.zeros(1, 1, 1), torch.full((1, 1, 4), offset), batch)
    assert float(terms["box"]) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("logit", [-1e4, 1e4])
def test_extreme_logits_stay_finite(logit):
    scores = torch.full((2, len(ANCHORS), 2), logit, requires_grad=True)
    deltas = torch.full((2, len(ANCHORS), 4), logit, requires_grad=True)
    _, _, true = random_outputs(2, [2, 0])
    terms = detection_loss(scores, deltas, make_batch(true))
    sum(terms.values()).backward()
    assert all(term.isfinite() for term in terms.values())
    assert scores.grad.isfinite().all()
    assert deltas.grad.isfinite().all()


def test_global_loss():
    logits = torch.tensor([[0.0, 0, 0], [5, 1, -2], [1, 2, 3]])
    assert float(global_loss(logits[:1], torch.tensor([1]))) == pytest.approx(math.log(3))
    known = F.cross_entropy(logits[[0, 2]], torch.tensor([1, 2]))
    assert float(global_loss(logits, torch.tensor([1, -1, 2]))) == pytest.approx(float(known))


def test_global_loss_without_any_known_class():
    logits = torch.ones(2, 3, requires_grad=True)
    loss = global_loss(logits, torch.tensor([-1, -1]))
    loss.backward()
    assert loss == 0
    assert (logits.grad == 0).all()


def half_covered(kind_of_box, kind_of_score, logit=0.0):
    """Terms of one anchor 0 0 32 32 whose box reaches from 0 0 to 32 64: overlap one half."""
    anchor = torch.tensor([[0.0, 0.0, 32.0, 32.0]])
    batch = make_batch([(np.array([[0.0, 0.0, 32.0, 64.0]]), [0])], anchor)
    kind = LossKind(kind_of_box, kind_of_score, anchor)
    return detection_loss(torch.full((1, 1, 1), logit), torch.zeros(1, 1, 4), batch, kind=kind)


def test_generalised_overlap_by_hand():
    """The smaller box lies in the larger one, so nothing is added to the overlap: 1 - 1/2."""
    assert float(half_covered("giou", "one")["box"]) == pytest.approx(0.5, rel=1e-5)
    # Deltas 0, 2.5, 0, log(2) / 0.2 are wanted.
    linear = (5 - 1 / 18) + (math.log(2) / 0.2 - 1 / 18)
    assert float(half_covered("smooth_l1", "iou")["box"]) == pytest.approx(linear / 4, rel=1e-5)


@pytest.mark.parametrize("logit, probability", [(0.0, 0.5), (math.log(9), 0.9)])
def test_a_score_that_says_how_well_its_box_fits(logit, probability):
    entropy = -0.5 * math.log(probability) - 0.5 * math.log(1 - probability)
    assert float(half_covered("giou", "iou", logit)["class"]) == pytest.approx(
        0.5 * entropy, rel=1e-5
    )
    focal = loop_focal(logit, True)
    assert float(half_covered("giou", "one", logit)["class"]) == pytest.approx(focal, rel=1e-3)
