"""Losses of masks: the numbers of the specification, libraries that compute the same, and their limits."""

from dataclasses import replace

import pytest
import torch
from segmentation_models_pytorch.losses import DiceLoss, FocalLoss, LovaszLoss

from cxr.config import Config
from cxr.methods.segmenter.losses import (
    TERMS,
    batch_dice,
    bce,
    focal,
    lovasz_hinge,
    mask_loss,
    parse_terms,
    squared_dice,
    symmetric_lovasz,
)
from cxr.system.disk import InputError

LOGITS = torch.tensor([[[[2.0, -1.0], [0.5, -3.0]]]])
TARGET = torch.tensor([[[[1.0, 0.0], [0.0, 1.0]]]])
MASK_TERMS = [function for function, what in TERMS.values() if what == "mask"]


@pytest.mark.parametrize(
    "loss, expected",
    [
        (bce, 1.115714),
        (batch_dice, 0.513971),
        (focal, 0.792039),
        (squared_dice, 0.422248),
        (lovasz_hinge, 2.25),
        (lambda z, y: lovasz_hinge(-z, 1 - y), 1.833333),
        (symmetric_lovasz, 2.041667),
    ],
)
def test_oracles(loss, expected):
    assert float(loss(LOGITS, TARGET)) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(
    "text, expected",
    [
        ("bce=3,dice=1,focal=4", 7.029266),
        ("bce=1,dice=1,focal=1", 2.421723),
        ("bce=2,dice=1,focal=2", 4.329475),
        ("bce=2.7,dice=0.9", 3.475),
        ("squared_dice=1", 0.422248),
        ("lovasz=1", 2.041667),
        ("bce=1024", 1024 * 1.115714),
        ("bce=2.7,dice=0.9,label=0.1", 3.475 + 0.0693147),
    ],
)
def test_the_places_sums(text, expected):
    outputs, batch = (
        {"mask": LOGITS, "label": torch.zeros(1)},
        {"mask": TARGET, "label": torch.tensor([1])},
    )
    terms = mask_loss(outputs, batch, replace(Config(), mask_loss=text))
    assert list(terms) == list(parse_terms(text))
    assert float(sum(terms.values())) == pytest.approx(expected, rel=1e-6)


def test_the_smoothing_of_the_fourth_is_that_of_the_first():
    """1e-5 and 1e-6 differ in the sixth decimal, so one term serves both."""
    assert float(batch_dice(LOGITS, TARGET, 1e-5)) == pytest.approx(
        float(batch_dice(LOGITS, TARGET)), abs=2e-6
    )


@pytest.fixture
def batch():
    generator = torch.Generator().manual_seed(0)
    return (
        torch.randn(5, 1, 16, 16, generator=generator) * 3,
        (
            torch.rand(5, 1, 16, 16, generator=generator)
            < torch.tensor([0.0, 0.1, 0.5, 0.9, 1.0])[:, None, None, None]
        ).float(),
    )


def test_as_libraries_compute_it(batch):
    logits, target = batch
    ours = [batch_dice(*batch), focal(*batch), symmetric_lovasz(*batch)]
    lovasz = LovaszLoss("binary", per_image=True)
    theirs = [
        DiceLoss("binary", smooth=1e-6)(*batch),
        FocalLoss("binary", gamma=2)(*batch),
        (lovasz(logits, target) + lovasz(-logits, 1 - target)) / 2,
    ]
    assert torch.stack(ours).tolist() == pytest.approx(torch.stack(theirs).tolist(), rel=1e-5)


@pytest.mark.parametrize("loss", [bce, focal, squared_dice, lovasz_hinge, symmetric_lovasz])
def test_batched_is_the_mean_of_single_images(loss, batch):
    single = [loss(z[None], y[None]) for z, y in zip(*batch)]
    assert float(loss(*batch)) == pytest.approx(float(torch.stack(single).mean()), rel=1e-5)


def test_dice_over_the_batch_is_that_of_one_long_image(batch):
    assert float(batch_dice(*batch)) == pytest.approx(
        float(batch_dice(*(part.reshape(1, -1) for part in batch)))
    )


@pytest.mark.parametrize("loss", MASK_TERMS)
def test_right_is_better_than_wrong_and_empty_masks_teach(loss):
    target = torch.zeros(2, 1, 8, 8)
    wrong = torch.full_like(target, 2.0).requires_grad_()
    loss(wrong, target).backward()
    assert wrong.grad.isfinite().all() and wrong.grad.sum() > 0
    assert loss(torch.full_like(target, -9.0), target) < loss(wrong, target)
    target[0, 0, :4] = 1
    assert loss(18 * target - 9, target) < 0.2 < loss(9 - 18 * target, target)


@pytest.mark.parametrize("loss", MASK_TERMS)
def test_extreme_logits_stay_finite(loss):
    target = (torch.arange(64) % 2).float().reshape(1, 1, 8, 8)
    logits = torch.tensor([-1e4, 1e4]).repeat(32).flip(0).reshape(1, 1, 8, 8).requires_grad_()
    loss(logits, target).backward()
    assert loss(logits, target).isfinite() and logits.grad.isfinite().all()


@pytest.mark.parametrize(
    "text, sentence",
    [
        ("bce", "is not a list such as"),
        ("bce=much", "is not a list such as"),
        ("", "is not a list such as"),
        ("bce=1,dise=2", "knows no term dise: choose from bce, dice"),
    ],
)
def test_words_that_are_no_loss(text, sentence):
    with pytest.raises(InputError, match=sentence):
        parse_terms(text)


def test_a_label_term_needs_a_label_head():
    with pytest.raises(InputError, match="needs a network with a --label-head for its term label"):
        mask_loss({"mask": LOGITS}, {"mask": TARGET}, replace(Config(), mask_loss="bce=1,label=1"))
