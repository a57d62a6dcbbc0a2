"""Augmentation: the distributions that are drawn, and that boxes go where the image's content goes."""

import random
from dataclasses import replace

import albumentations as A
import numpy as np
import pytest

from cxr.data import augmentation
from cxr.data.augmentation import (
    LEVELS,
    Augmentation,
    Level,
    StoredNoise,
    gamma_table,
    random_affine,
    visible,
)

STILL = Level(scale=0, angle=0, shear=0, gamma=0, flip=0, noise=0, salt=0)


def draw(level, number=4000, side=512):
    rng = np.random.default_rng(0)
    return np.array([random_affine(rng, level, side) for _ in range(number)])


def parts(matrices):
    """(log2 scale x, log2 scale y, angle, shear, flipped) of 2x3 matrices made of scale, then shear, rotation, flip."""
    linear = matrices[:, :, :2].copy()
    flipped = np.linalg.det(linear) < 0
    linear[flipped, 0] *= -1
    angle = np.arctan2(linear[:, 1, 0], linear[:, 0, 0])
    along = np.cos(angle) * linear[:, 0, 1] + np.sin(angle) * linear[:, 1, 1]
    across = -np.sin(angle) * linear[:, 0, 1] + np.cos(angle) * linear[:, 1, 1]
    scale_x = np.hypot(linear[:, 0, 0], linear[:, 1, 0])
    return (
        np.log2(scale_x),
        np.log2(across),
        np.rad2deg(angle),
        np.rad2deg(np.arctan(along / across)),
        flipped,
    )


@pytest.mark.parametrize("name", LEVELS)
def test_distribution_of_the_affine_part(name):
    level = LEVELS[name]
    scale_x, scale_y, angle, shear, flipped = parts(draw(level))
    pairs = (
        (scale_x, level.scale),
        (scale_y, level.scale),
        (angle, level.angle),
        (shear, level.shear),
    )
    for values, deviation in pairs:
        assert np.std(values) == pytest.approx(deviation, rel=0.05, abs=1e-6)
        assert abs(np.mean(values)) <= 0.06 * deviation + 1e-6
    assert np.mean(flipped) == pytest.approx(level.flip, abs=0.03)
    assert abs(np.corrcoef(scale_x, scale_y)[0, 1]) < 0.06


def test_the_levels_of_the_paper():
    assert LEVELS["20"] == Level(
        scale=0.15, angle=6, shear=4, gamma=0.25, flip=0.5, noise=0.5, salt=0.1
    )
    assert LEVELS["10"] == Level(scale=0.1, angle=5, shear=2.5, gamma=0.2, flip=0, noise=0, salt=0)
    assert LEVELS["11"] == replace(LEVELS["10"], angle=0) and LEVELS["21"] == replace(
        LEVELS["20"], angle=0
    )
    assert LEVELS["15"] == Level(
        scale=0.15, angle=6, shear=4, gamma=0.2, flip=0.5, noise=0.25, salt=0
    )


def test_the_fixed_point_is_the_centre_give_or_take_32_of_1024():
    matrices = draw(replace(STILL, angle=40.0), 2000)
    turned = matrices[np.abs(parts(matrices)[2]) > 5]
    fixed = np.array([np.linalg.solve(np.eye(2) - m[:, :2], m[:, 2]) for m in turned])
    assert np.abs(fixed - 256).max() <= 16 + 1e-6 and np.abs(fixed - 256).max() > 15
    assert np.allclose(fixed.std(0), 16 / np.sqrt(3), rtol=0.05)


def test_gamma_is_drawn_as_a_power_of_two():
    assert gamma_table(1.0).tolist() == list(range(256))
    table = gamma_table(2.0)
    assert table[0] == 0 and table[255] == 255 and table[128] == round(255 * (128 / 255) ** 2)
    augment = make(replace(STILL, gamma=0.25), 32)
    rng = np.random.default_rng(0)
    seen = [
        augment(np.full((32, 32), 128, np.uint8), *nothing(), rng)[0][16, 16] for _ in range(1500)
    ]
    powers = np.log2(np.log(np.array(seen) / 255) / np.log(128 / 255))
    assert np.std(powers) == pytest.approx(0.25, rel=0.08) and abs(np.mean(powers)) < 0.03


def make(level, size):
    augment = Augmentation("20", size)
    augment.level = level
    return augment


def nothing():
    return np.zeros((0, 4)), np.zeros(0, np.int64)


def rectangle(side=256, box=(96, 80, 160, 176)):
    image = np.zeros((side, side), np.uint8)
    x1, y1, x2, y2 = box
    image[y1:y2, x1:x2] = 255
    return image, np.array([box], np.float64), np.zeros(1, np.int64)


def extent(image):
    """Box of what is brighter than half."""
    rows, columns = np.flatnonzero((image > 127).any(1)), np.flatnonzero((image > 127).any(0))
    return np.array([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1], float)


@pytest.mark.parametrize("size", [256, 128])
@pytest.mark.parametrize("seed", range(6))
def test_boxes_follow_the_image(seed, size):
    """Without rotation and shear the box is exact but for a pixel of resampling."""
    augment = make(replace(STILL, scale=0.15, flip=0.5), size)
    image, boxes, labels = augment(*rectangle(), np.random.default_rng(seed))
    assert image.shape == (size, size) and labels.tolist() == [0]
    assert np.abs(extent(image) - boxes[0]).max() <= 0.8


@pytest.mark.parametrize("seed", range(6))
def test_boxes_follow_a_round_opacity_that_turns(seed):
    """An ellipse that fills its box: the eight-point box stays near the ellipse's own box."""
    y, x = np.mgrid[:256, :256] + 0.5
    image = (((x - 128) / 32) ** 2 + ((y - 128) / 48) ** 2 < 1).astype(np.uint8) * 255
    augment = make(replace(LEVELS["20"], gamma=0, noise=0), 256)
    warped, boxes, _ = augment(image, *rectangle()[1:], np.random.default_rng(seed))
    assert np.abs(extent(warped) - boxes[0]).max() < 7
    assert np.abs(extent(image) - extent(warped)).max() > 2


def test_a_flip_alone_mirrors_box_and_image():
    image, boxes, _ = make(replace(STILL, flip=1.0), 256)(
        *rectangle(box=(20, 80, 60, 176)), np.random.default_rng(0)
    )
    assert boxes.tolist() == [[256 - 60, 80, 256 - 20, 176]]
    assert extent(image).tolist() == boxes[0].tolist()


def test_the_border_is_black():
    augment = make(replace(STILL, scale=1.0), 64)
    rng = np.random.default_rng(0)
    images = [augment(np.full((64, 64), 200, np.uint8), *nothing(), rng)[0] for _ in range(20)]
    shrunk = [image for image in images if image[0, 0] == 0]
    assert shrunk and set(np.unique(np.concatenate([image[0] for image in shrunk]))) <= set(
        range(201)
    )
    assert all(image[32, 32] == 200 for image in images)


def test_nothing_moves_at_level_still():
    image = np.random.default_rng(0).integers(0, 256, (64, 64), dtype=np.uint8)
    boxes, labels = np.array([[3.0, 4, 20, 30]]), np.array([0])
    found = make(STILL, 64)(image, boxes, labels, np.random.default_rng(1))
    assert (
        np.array_equal(found[0], image)
        and np.allclose(found[1], boxes)
        and found[2].tolist() == [0]
    )


@pytest.mark.parametrize("name", LEVELS)
@pytest.mark.parametrize("size", [64, 200])
def test_every_level_runs_without_boxes_and_is_decided_by_its_rng(name, size):
    image = np.random.default_rng(0).integers(0, 256, (96, 96), dtype=np.uint8)
    augment, again = Augmentation(name, size), Augmentation(name, size)
    for seed in range(3):
        first = augment(image, *nothing(), np.random.default_rng(seed))
        second = again(image, *nothing(), np.random.default_rng(seed))
        assert (
            first[0].shape == (size, size)
            and first[0].dtype == np.uint8
            and first[1].shape == (0, 4)
        )
        assert np.array_equal(first[0], second[0])
        again(image, *nothing(), np.random.default_rng(99))  # a call in between must not matter
    assert not np.array_equal(first[0], augment(image, *nothing(), np.random.default_rng(77))[0])


@pytest.mark.parametrize("which, share", [(0, 0.1), (1, 0.44), (2, 0.5)])
def test_specks_blur_and_noise_appear_as_often_as_the_level_says(which, share):
    """One of the three alone; a blur narrower than a pixel, one in eight of this size, changes nothing."""
    image = np.random.default_rng(0).integers(100, 156, (256, 256), dtype=np.uint8)
    augment = make(replace(STILL, noise=0.5, salt=0.1), 256)
    for i, transform in enumerate(augment.pixels.transforms):
        transform.p = transform.p if i == which else 0
    rng = np.random.default_rng(0)
    changed = [not np.array_equal(augment(image, *nothing(), rng)[0], image) for _ in range(300)]
    assert np.mean(changed) == pytest.approx(share, abs=0.09 if share > 0.2 else 0.05)


def test_specks_blur_and_noise_are_independent():
    """0.9 * 0.5 * (0.5 + 0.5 / 8) = 0.25 of the pictures stay as they are, a narrow blur changing nothing."""
    image = np.random.default_rng(0).integers(100, 156, (256, 256), dtype=np.uint8)
    augment = make(replace(STILL, noise=0.5, salt=0.1), 256)
    rng = np.random.default_rng(0)
    same = [np.array_equal(augment(image, *nothing(), rng)[0], image) for _ in range(300)]
    assert np.mean(same) == pytest.approx(0.25, abs=0.07)


def test_stored_noise_is_normal_and_of_every_strength():
    """Deviations uniform from 0 to 4 % of 255, no shift, two thirds of the pixels within one deviation, neighbours apart."""
    noise, gray = A.Compose([StoredNoise(256, p=1.0)]), np.full((256, 256), 128, np.uint8)
    found = []
    for seed in range(200):
        noise.set_random_state(np.random.default_rng(seed), random.Random(seed))
        found.append(noise(image=gray)["image"].astype(float) - 128)
    deviations = np.sort([one.std() for one in found])
    assert (
        deviations[[50, 100, 150]] == pytest.approx([2.55, 5.1, 7.65], abs=1.0)
        and 9.2 < deviations[-1] < 10.4
    )
    strong = found[int(np.argmax([one.std() for one in found]))]
    assert abs(np.mean([one.mean() for one in found])) < 0.05
    assert (np.abs(strong) <= strong.std()).mean() == pytest.approx(0.68, abs=0.04)
    assert abs(np.corrcoef(strong[:, 1:].ravel(), strong[:, :-1].ravel())[0, 1]) < 0.02
    assert not np.array_equal(found[0] > 0, found[1] > 0)


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
    assert kept.tolist() == [[0, 10, 11, 50], [5, 5, 40, 7.5]] and labels.tolist() == [1, 4]
    assert visible(np.zeros((0, 4)), np.zeros(0, int), 100)[0].shape == (0, 4)


def test_importing_albumentations_asks_no_server():
    assert augmentation.os.environ["NO_ALBUMENTATIONS_UPDATE"]
