"""Losses of masks: sums of the places, libraries that compute the same, and their limits."""

import pytest
import torch
from segmentation_models_pytorch.losses import DiceLoss, FocalLoss, LovaszLoss

from cxr.methods.segmenter.losses import (
    TERMS,
    batch_dice,
    bce,
    binary_focal,
    lovasz_hinge,
    mask_loss,
    parse_terms,
    squared_dice,
    symmetric_lovasz,
)
from cxr.system.errors import InputError

LOGITS = torch.tensor([[[[2.0, -1.0], [0.5, -3.0]]]])
TARGET = torch.tensor([[[[1.0, 0.0], [0.0, 1.0]]]])
MASK_TERMS = [term.function for term in TERMS.values() if term.output == "mask"]
OF_SINGLE_IMAGES = [bce, binary_focal, squared_dice, lovasz_hinge, symmetric_lovasz]


def lovasz_of_complement(logits, target):
    return lovasz_hinge(-logits, 1 - target)


@pytest.mark.parametrize(
    "loss, expected",
    [
        (bce, 1.115714),
        (batch_dice, 0.513971),
        (binary_focal, 0.792039),
        (squared_dice, 0.422248),
        (lovasz_hinge, 2.25),
        (lovasz_of_complement, 1.833333),
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
    outputs = {"mask": LOGITS, "label": torch.zeros(1)}
    terms = mask_loss(outputs, TARGET, torch.tensor([1]), text)
    assert list(terms) == list(parse_terms(text))
    assert float(sum(terms.values())) == pytest.approx(expected, rel=1e-6)


def test_the_smoothing_of_the_fourth_is_that_of_the_first():
    """1e-5 and 1e-6 differ in the sixth decimal, so one term serves both."""
    of_fourth = float(batch_dice(LOGITS, TARGET, 1e-5))
    assert of_fourth == pytest.approx(float(batch_dice(LOGITS, TARGET)), abs=2e-6)


@pytest.fixture
def batch():
    """Logits and masks of five images: an empty mask, a full one, and three between."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(5, 1, 16, 16, generator=generator) * 3
    shares = torch.tensor([0.0, 0.1, 0.5, 0.9, 1.0])[:, None, None, None]
    target = (torch.rand(5, 1, 16, 16, generator=generator) < shares).float()
    return logits, target


def test_as_libraries_compute_it(batch):
    logits, target = batch
    dice = DiceLoss("binary", smooth=1e-6)
    focal = FocalLoss("binary", gamma=2)
    lovasz = LovaszLoss("binary", per_image=True)
    both_sides = (lovasz(logits, target) + lovasz(-logits, 1 - target)) / 2
    assert float(batch_dice(*batch)) == pytest.approx(float(dice(*batch)), rel=1e-5)
    assert float(binary_focal(*batch)) == pytest.approx(float(focal(*batch)), rel=1e-5)
    assert float(symmetric_lovasz(*batch)) == pytest.approx(float(both_sides), rel=1e-5)


@pytest.mark.parametrize("loss", OF_SINGLE_IMAGES)
def test_batched_is_the_mean_of_single_images(loss, batch):
    logits, target = batch
    single = torch.stack([loss(logits[i : i + 1], target[i : i + 1]) for i in range(5)])
    assert float(loss(logits, target)) == pytest.approx(float(single.mean()), rel=1e-5)


def test_dice_over_the_batch_is_that_of_one_long_image(batch):
    logits, target = batch
    of_long_image = batch_dice(logits.reshape(1, -1), target.reshape(1, -1))
    assert float(batch_dice(logits, target)) == pytest.approx(float(of_long_image))


@pytest.mark.parametrize("loss", MASK_TERMS)
def test_right_is_better_than_wrong_and_empty_masks_teach(loss):
    target = torch.zeros(2, 1, 8, 8)
    wrong = torch.full_like(target, 2.0).requires_grad_()
    loss(wrong, target).backward()
    assert wrong.grad.isfinite().all()
    assert wrong.grad.sum() > 0
    assert loss(torch.full_like(target, -9.0), target) < loss(wrong, target)

    target[0, 0, :4] = 1
    right = 18 * target - 9
    assert loss(right, target) < 0.2
    assert loss(-right, target) > 0.2


@pytest.mark.parametrize("loss", MASK_TERMS)
def test_extreme_logits_stay_finite(loss):
    target = (torch.arange(64) % 2).float().reshape(1, 1, 8, 8)
    logits = torch.tensor([-1e4, 1e4]).repeat(32).flip(0).reshape(1, 1, 8, 8).requires_grad_()
    value = loss(logits, target)
    value.backward()
    assert value.isfinite()
    assert logits.grad.isfinite().all()


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
    sentence = "needs a network with a --label-head for its term label"
    with pytest.raises(InputError, match=sentence):
        mask_loss({"mask": LOGITS}, TARGET, torch.tensor([1]), "bce=1,label=1")
