"""Augmentation levels of the paper: one warp of the picture at the network's size, gamma, pixel noise."""

import os
import random
from dataclasses import dataclass

import cv2
import numpy as np

from cxr.geometry.boxes import clip_boxes, warp_boxes
from cxr.images.resize import resize

os.environ.setdefault(
    "NO_ALBUMENTATIONS_UPDATE", "1"
)  # else every import asks pypi.org and warns without a network
import albumentations as A  # noqa: E402

MOST_NOISE = 0.04  # of the range
ROOM, DEVIATION = (
    512,
    32,
)  # of the tile of noise: pixels that it is larger than a picture, gray values
CENTRE_JITTER = 32 / 1024  # of the side; the centre about which an image is scaled and turned


@dataclass(frozen=True)
class Level:
    """Standard deviations: scale and gamma as powers of 2, angles in degrees; probabilities of flip and pixel noise."""

    scale: float
    angle: float
    shear: float
    gamma: float
    flip: float
    noise: float
    salt: float


LEVELS = {
    "10": Level(0.10, 5.0, 2.5, 0.20, 0.0, 0.0, 0.0),
    "11": Level(0.10, 0.0, 2.5, 0.20, 0.0, 0.0, 0.0),
    "15": Level(0.15, 6.0, 4.0, 0.20, 0.5, 0.25, 0.0),
    "20": Level(0.15, 6.0, 4.0, 0.25, 0.5, 0.5, 0.1),
    "21": Level(0.15, 0.0, 4.0, 0.25, 0.5, 0.5, 0.1),
}


class StoredNoise(A.ImageOnlyTransform):
    """Normal noise of a deviation up to MOST_NOISE of the range, cut anywhere from a tile that was drawn once.

    The same as albumentations' GaussNoise, whose new numbers for each picture take longer than decoding its PNG.
    """

    def __init__(self, size, p):
        super().__init__(p=p)
        normal = np.random.default_rng(0).standard_normal(
            (size + ROOM, size + ROOM), dtype=np.float32
        )
        self.tile = np.clip(np.round(128 + DEVIATION * normal), 0, 255).astype(np.uint8)

    def get_params(self):
        return {
            "weight": self.py_random.uniform(0, 255 * MOST_NOISE / DEVIATION),
            "y": self.py_random.randint(0, ROOM),
            "x": self.py_random.randint(0, ROOM),
        }

    def apply(self, img, weight, y, x, **params):
        height, width = img.shape
        return cv2.addWeighted(
            img, 1, self.tile[y : y + height, x : x + width], weight, -128 * weight
        )


class Augmentation:
    """Level and output side -> callable(image (H, W) uint8, boxes (n, 4), labels (n,), rng, any number of masks of 0
    and 1, of any size) -> the same without rng, warped.

    albumentations draws uniform ranges only, so the normal distributions of the paper (affine, gamma) are drawn here;
    specks and blur are albumentations'.
    """

    def __init__(self, level, size):
        self.level, self.size = LEVELS[level], size
        hole = max(2, size // 128)
        self.pixels = A.Compose(
            [
                A.CoarseDropout(
                    num_holes_range=(8, 64),
                    hole_height_range=(1, hole),
                    hole_width_range=(1, hole),
                    fill="random",
                    p=self.level.salt,
                ),
                A.GaussianBlur(
                    blur_limit=0, sigma_limit=(0.1, 2.0 * size / 512), p=self.level.noise
                ),
                StoredNoise(size, p=self.level.noise),
            ]
        )

    def __call__(self, image, boxes, labels, rng, *masks):
        image, boxes = resize(image, self.size), boxes * (self.size / len(image))
        matrix = random_affine(rng, self.level, self.size)
        image = warp(image, matrix, self.size)
        masks = [
            (warp(resize(255 * mask, self.size), matrix, self.size) > 127).view(np.uint8)
            for mask in masks
        ]
        boxes, labels = visible(warp_boxes(boxes, matrix), labels, self.size)
        image = cv2.LUT(image, gamma_table(2 ** rng.normal(0, self.level.gamma)))
        if self.level.noise:
            # one state for all three; set_random_seed would give each the same numbers, so that all or none happen
            seeds = rng.integers(2**31, size=2).tolist()
            self.pixels.set_random_state(np.random.default_rng(seeds[0]), random.Random(seeds[1]))
            image = self.pixels(image=image)["image"]
        return image, boxes, labels, *masks


def warp(picture, matrix, side):
    return cv2.warpAffine(picture, of_pixel_centres(matrix), (side, side), flags=cv2.INTER_LINEAR)


def of_pixel_centres(matrix):
    """The 2x3 matrix for cv2's pixel numbers, whose whole numbers are the centres of pixels, not their edges."""
    linear, shift = matrix[:, :2], matrix[:, 2:]
    return np.hstack([linear, shift + linear.sum(1, keepdims=True) / 2 - 0.5])


def random_affine(rng, level, side):
    """2x3 matrix within a picture of `side`: scale, shear, rotation about a jittered centre, flip."""
    centre = side / 2 + rng.uniform(-CENTRE_JITTER, CENTRE_JITTER, 2) * side
    sx, sy = 2 ** rng.normal(0, level.scale, 2)
    angle, shear = np.deg2rad(rng.normal(0, 1, 2) * (level.angle, level.shear))
    flip = -1 if rng.random() < level.flip else 1
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    linear = turn @ np.array([[1, np.tan(shear)], [0, 1]]) @ np.diag([sx, sy])
    shift = centre - linear @ centre
    if flip < 0:
        linear, shift = np.diag([-1, 1]) @ linear, np.array([side - shift[0], shift[1]])
    return np.hstack([linear, shift[:, None]])


def visible(boxes, labels, size, share=0.25):
    """Boxes cut at the edges; those that keep less than `share` of their area or under 2 pixels are dropped."""
    clipped = clip_boxes(boxes, size, size)
    area = np.prod(boxes[:, 2:] - boxes[:, :2], 1)
    sides = clipped[:, 2:] - clipped[:, :2]
    keep = (np.prod(sides, 1) > share * area) & (sides.min(1, initial=np.inf) > 2)
    return clipped[keep], labels[keep]


def gamma_table(gamma):
    return np.round(255 * (np.arange(256) / 255) ** gamma).astype(np.uint8)
