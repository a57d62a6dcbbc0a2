"""Augmentation: the distributions that are drawn, and that boxes go where the content goes."""

import random
from dataclasses import replace
from typing import NamedTuple

import albumentations as A
import numpy as np
import pytest

from cxr.data import augmentation
from cxr.data.annotated_image import AnnotatedImage
from cxr.data.augmentation import (
    LEVELS,
    Level,
    LevelAugmentation,
    StoredNoise,
    gamma_table,
    random_affine,
    visible,
)
from cxr.data.dataset import make_augmentation
from cxr.data.mask_augmentation import RECIPES

STILL = Level(scale=0, angle=0, shear=0, gamma=0, flip=0, noise=0, salt=0)


def draw_matrices(level, number=4000, side=512):
    rng = np.random.default_rng(0)
    return np.array([random_affine(rng, level, side) for _ in range(number)])


class AffineParts(NamedTuple):
    """What matrices (n, 2, 3) consist of: scales as powers of 2, angles in degrees."""

    scale_x: np.ndarray
    scale_y: np.ndarray
    angle: np.ndarray
    shear: np.ndarray
    flipped: np.ndarray


def take_apart(matrices):
    """The parts of matrices that were made of scale, then shear, rotation, flip."""
    linear = matrices[:, :, :2].copy()
    flipped = np.linalg.det(linear) < 0
    linear[flipped, 0] *= -1
    angle = np.arctan2(linear[:, 1, 0], linear[:, 0, 0])
    along = np.cos(angle) * linear[:, 0, 1] + np.sin(angle) * linear[:, 1, 1]
    across = -np.sin(angle) * linear[:, 0, 1] + np.cos(angle) * linear[:, 1, 1]
    scale_x = np.hypot(linear[:, 0, 0], linear[:, 1, 0])
    shear = np.arctan(along / across)
    return AffineParts(
        np.log2(scale_x), np.log2(across), np.rad2deg(angle), np.rad2deg(shear), flipped
    )


@pytest.mark.parametrize("name", LEVELS)
def test_distribution_of_the_affine_part(name):
    level = LEVELS[name]
    parts = take_apart(draw_matrices(level))
    expected = (
        (parts.scale_x, level.scale),
        (parts.scale_y, level.scale),
        (parts.angle, level.angle),
        (parts.shear, level.shear),
    )
    for values, deviation in expected:
        assert np.std(values) == pytest.approx(deviation, rel=0.05, abs=1e-6)
        assert abs(np.mean(values)) <= 0.06 * deviation + 1e-6
    assert np.mean(parts.flipped) == pytest.approx(level.flip, abs=0.03)
    assert abs(np.corrcoef(parts.scale_x, parts.scale_y)[0, 1]) < 0.06


def test_the_levels_of_the_paper():
    level10 = Level(scale=0.1, angle=5, shear=2.5, gamma=0.2, flip=0, noise=0, salt=0)
    level15 = Level(scale=0.15, angle=6, shear=4, gamma=0.2, flip=0.5, noise=0.25, salt=0)
    level20 = Level(scale=0.15, angle=6, shear=4, gamma=0.25, flip=0.5, noise=0.5, salt=0.1)
    assert LEVELS["10"] == level10
    assert LEVELS["11"] == replace(level10, angle=0)
    assert LEVELS["15"] == level15
    assert LEVELS["20"] == level20
    assert LEVELS["21"] == replace(level20, angle=0)


def test_the_fixed_point_is_the_centre_give_or_take_32_of_1024():
    matrices = draw_matrices(replace(STILL, angle=40.0), 2000)
    turned = matrices[np.abs(take_apart(matrices).angle) > 5]
    fixed = []
    for matrix in turned:
        fixed.append(np.linalg.solve(np.eye(2) - matrix[:, :2], matrix[:, 2]))
    fixed = np.array(fixed)
    distance = np.abs(fixed - 256).max()
    assert 15 < distance <= 16 + 1e-6
    assert np.allclose(fixed.std(0), 16 / np.sqrt(3), rtol=0.05)


def make_augment(level, size):
    augment = LevelAugmentation("20", size)
    augment.level = level
    return augment


def plain_image(image):
    """A picture without boxes."""
    return AnnotatedImage(image, np.zeros((0, 4)), np.zeros(0, np.int64))


def gray_image(side, value):
    return plain_image(np.full((side, side), value, np.uint8))


def noisy_image(side, low=0, high=256):
    rng = np.random.default_rng(0)
    return plain_image(rng.integers(low, high, (side, side), dtype=np.uint8))


def rectangle(side=256, box=(96, 80, 160, 176)):
    """A white rectangle on black with its box."""
    image = np.zeros((side, side), np.uint8)
    x1, y1, x2, y2 = box
    image[y1:y2, x1:x2] = 255
    return AnnotatedImage(image, np.array([box], np.float64), np.zeros(1, np.int64))


def extent(image):
    """Box of what is brighter than half."""
    rows = np.flatnonzero((image > 127).any(1))
    columns = np.flatnonzero((image > 127).any(0))
    return np.array([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1], float)


def test_gamma_is_drawn_as_a_power_of_two():
    assert gamma_table(1.0).tolist() == list(range(256))
    table = gamma_table(2.0)
    assert table[0] == 0
    assert table[255] == 255
    assert table[128] == round(255 * (128 / 255) ** 2)

    augment = make_augment(replace(STILL, gamma=0.25), 32)
    rng = np.random.default_rng(0)
    gray = gray_image(32, 128)
    values = np.array([augment(gray, rng).image[16, 16] for _ in range(1500)])
    powers = np.log2(np.log(values / 255) / np.log(128 / 255))
    assert np.std(powers) == pytest.approx(0.25, rel=0.08)
    assert abs(np.mean(powers)) < 0.03


@pytest.mark.parametrize("size", [256, 128])
@pytest.mark.parametrize("seed", range(6))
def test_boxes_follow_the_image(seed, size):
    """Without rotation and shear the box is exact but for a pixel of resampling."""
    augment = make_augment(replace(STILL, scale=0.15, flip=0.5), size)
    changed = augment(rectangle(), np.random.default_rng(seed))
    assert changed.image.shape == (size, size)
    assert changed.labels.tolist() == [0]
    assert np.abs(extent(changed.image) - changed.boxes[0]).max() <= 0.8


@pytest.mark.parametrize("seed", range(6))
def test_boxes_follow_a_round_opacity_that_turns(seed):
    """An ellipse that fills its box: the eight-point box stays near the ellipse's own box."""
    y, x = np.mgrid[:256, :256] + 0.5
    ellipse = ((x - 128) / 32) ** 2 + ((y - 128) / 48) ** 2 < 1
    image = ellipse.astype(np.uint8) * 255
    augment = make_augment(replace(LEVELS["20"], gamma=0, noise=0), 256)
    changed = augment(replace(rectangle(), image=image), np.random.default_rng(seed))
    assert np.abs(extent(changed.image) - changed.boxes[0]).max() < 7
    assert np.abs(extent(image) - extent(changed.image)).max() > 2


def test_a_flip_alone_mirrors_box_and_image():
    augment = make_augment(replace(STILL, flip=1.0), 256)
    changed = augment(rectangle(box=(20, 80, 60, 176)), np.random.default_rng(0))
    assert changed.boxes.tolist() == [[256 - 60, 80, 256 - 20, 176]]
    assert extent(changed.image).tolist() == changed.boxes[0].tolist()


def test_the_border_is_black():
    augment = make_augment(replace(STILL, scale=1.0), 64)
    rng = np.random.default_rng(0)
    gray = gray_image(64, 200)
    images = [augment(gray, rng).image for _ in range(20)]
    assert all(image[32, 32] == 200 for image in images)
    shrunk = [image for image in images if image[0, 0] == 0]
    assert shrunk
    edges = np.concatenate([image[0] for image in shrunk])
    assert edges.max() <= 200


def test_nothing_moves_at_level_still():
    image = np.random.default_rng(0).integers(0, 256, (64, 64), dtype=np.uint8)
    annotated = AnnotatedImage(image, np.array([[3.0, 4, 20, 30]]), np.array([0]))
    changed = make_augment(STILL, 64)(annotated, np.random.default_rng(1))
    assert np.array_equal(changed.image, image)
    assert np.allclose(changed.boxes, annotated.boxes)
    assert changed.labels.tolist() == [0]


@pytest.mark.parametrize("name", LEVELS)
@pytest.mark.parametrize("size", [64, 200])
def test_every_level_runs_without_boxes_and_is_decided_by_its_rng(name, size):
    annotated = noisy_image(96)
    augment = LevelAugmentation(name, size)
    again = LevelAugmentation(name, size)
    for seed in range(3):
        first = augment(annotated, np.random.default_rng(seed))
        second = again(annotated, np.random.default_rng(seed))
        assert first.image.shape == (size, size)
        assert first.image.dtype == np.uint8
        assert first.boxes.shape == (0, 4)
        assert first.mask is None
        assert np.array_equal(first.image, second.image)
        again(annotated, np.random.default_rng(99))  # a call in between must not matter
    other = augment(annotated, np.random.default_rng(77))
    assert not np.array_equal(first.image, other.image)


@pytest.mark.parametrize("name", ["1", *LEVELS, *RECIPES])
def test_every_augmentation_takes_pictures_with_and_without_mask(name):
    """And draws the same for both."""
    annotated = noisy_image(96)
    masked = replace(annotated, mask=np.ones((50, 70), np.uint8))
    augment = make_augmentation(name, 96)
    without = augment(annotated, np.random.default_rng(5))
    changed = augment(masked, np.random.default_rng(5))
    assert without.mask is None
    assert np.array_equal(without.image, changed.image)
    assert changed.mask.shape == changed.image.shape
    assert set(np.unique(changed.mask)) <= {0, 1}


@pytest.mark.parametrize("which, share", [(0, 0.1), (1, 0.44), (2, 0.5)])
def test_specks_blur_and_noise_appear_as_often_as_the_level_says(which, share):
    """One of the three alone; a blur narrower than a pixel, one in eight, changes nothing."""
    annotated = noisy_image(256, 100, 156)
    augment = make_augment(replace(STILL, noise=0.5, salt=0.1), 256)
    for i, transform in enumerate(augment.pixels.transforms):
        if i != which:
            transform.p = 0
    assert share_changed(augment, annotated) == pytest.approx(
        share, abs=0.09 if share > 0.2 else 0.05
    )


def test_specks_blur_and_noise_are_independent():
    """0.9 * 0.5 * (0.5 + 0.5 / 8) = 0.25 of the pictures stay, a narrow blur changing nothing."""
    annotated = noisy_image(256, 100, 156)
    augment = make_augment(replace(STILL, noise=0.5, salt=0.1), 256)
    assert share_changed(augment, annotated) == pytest.approx(0.75, abs=0.07)


def share_changed(augment, annotated):
    """Share of 300 draws that change a pixel."""
    rng = np.random.default_rng(0)
    changed = []
    for _ in range(300):
        changed.append(not np.array_equal(augment(annotated, rng).image, annotated.image))
    return np.mean(changed)


def test_stored_noise_is_normal_and_of_every_strength():
    """Deviations uniform from 0 to 4 % of 255, no shift, neighbours apart.

    Two thirds of the pixels are within one deviation.
    """
    noise = A.Compose([StoredNoise(256, p=1.0)])
    gray = np.full((256, 256), 128, np.uint8)
    differences = []
    for seed in range(200):
        noise.set_random_state(np.random.default_rng(seed), random.Random(seed))
        differences.append(noise(image=gray)["image"].astype(float) - 128)
    deviations = np.array([difference.std() for difference in differences])
    quartiles = np.sort(deviations)[[50, 100, 150]]
    assert quartiles == pytest.approx([2.55, 5.1, 7.65], abs=1.0)
    assert 9.2 < deviations.max() < 10.4

    strong = differences[int(np.argmax(deviations))]
    assert abs(np.mean(differences)) < 0.05
    assert (np.abs(strong) <= strong.std()).mean() == pytest.approx(0.68, abs=0.04)
    neighbours = np.corrcoef(strong[:, 1:].ravel(), strong[:, :-1].ravel())[0, 1]
    assert abs(neighbours) < 0.02
    assert not np.array_equal(differences[0] > 0, differences[1] > 0)


def test_boxes_that_leave_the_image_are_dropped():
    """Of 40 pixels' width 10 are the limit of a quarter; two pixels are the smallest side."""
    boxes = np.array(
        [
            [-31.0, 10, 9, 50],
            [-29.0, 10, 11, 50],
            [200, 200, 300, 300],
            [5, 5, 40, 7],
            [5, 5, 40, 7.5],
        ]
    )
    kept, labels = visible(boxes, np.arange(5), 100)
    assert kept.tolist() == [[0, 10, 11, 50], [5, 5, 40, 7.5]]
    assert labels.tolist() == [1, 4]
    assert visible(np.zeros((0, 4)), np.zeros(0, int), 100)[0].shape == (0, 4)


def test_importing_albumentations_asks_no_server():
    assert augmentation.os.environ["NO_ALBUMENTATIONS_UPDATE"]
