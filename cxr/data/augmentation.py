"""Augmentation levels of the paper: one warp at the network's size, gamma, pixel noise."""

from __future__ import annotations

import os
import random
from dataclasses import dataclass
from typing import Any, Protocol

import cv2
import numpy as np

from cxr.data.annotated_image import AnnotatedImage
from cxr.geometry.boxes import clip_boxes, warp_boxes
from cxr.geometry.masks import resize_mask
from cxr.images.resize import resize

# Else every import of albumentations asks pypi.org for news and warns without a network.
os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")
import albumentations as A

MOST_NOISE = 0.04  # of the range
NOISE_ROOM = 512  # pixels that the tile of noise is larger than a picture
NOISE_DEVIATION = 32  # of the tile of noise, in gray values
CENTRE_JITTER = 32 / 1024  # of the side; the centre about which an image is scaled and turned
SMALLEST_SHARE = 0.25  # of a box's area that must stay in the picture
SMALLEST_SIDE = 2  # pixels of what stays of a box


class Augmentation(Protocol):
    """Brings a picture to the network's size, changed as `rng` draws."""

    def __call__(self, annotated: AnnotatedImage, rng: np.random.Generator) -> AnnotatedImage: ...


@dataclass(frozen=True)
class Resizing:
    """Level 1: pictures are brought to (size, size) and nothing else."""

    size: int

    def __call__(self, annotated: AnnotatedImage, rng: np.random.Generator) -> AnnotatedImage:
        del rng
        mask = annotated.mask
        if mask is not None:
            mask = resize_mask(mask, self.size)
        return AnnotatedImage(
            image=resize(annotated.image, self.size),
            boxes=annotated.boxes * (self.size / len(annotated.image)),
            labels=annotated.labels,
            mask=mask,
        )


@dataclass(frozen=True)
class Level:
    """How much a level changes.

    Standard deviations: scale and gamma as powers of 2, angle and shear in degrees. Probabilities:
    flip, noise (of blur and of noise, each) and salt (specks).
    """

    scale: float
    angle: float
    shear: float
    gamma: float
    flip: float
    noise: float
    salt: float


LEVELS = {
    "10": Level(scale=0.10, angle=5.0, shear=2.5, gamma=0.20, flip=0.0, noise=0.0, salt=0.0),
    "11": Level(scale=0.10, angle=0.0, shear=2.5, gamma=0.20, flip=0.0, noise=0.0, salt=0.0),
    "15": Level(scale=0.15, angle=6.0, shear=4.0, gamma=0.20, flip=0.5, noise=0.25, salt=0.0),
    "20": Level(scale=0.15, angle=6.0, shear=4.0, gamma=0.25, flip=0.5, noise=0.5, salt=0.1),
    "21": Level(scale=0.15, angle=0.0, shear=4.0, gamma=0.25, flip=0.5, noise=0.5, salt=0.1),
}

NONE = "1"  # only resized
BOX_AUGMENTATIONS = (NONE, *LEVELS)


class StoredNoise(A.ImageOnlyTransform):
    """Normal noise of a deviation up to MOST_NOISE of the range, cut anywhere from a stored tile.

    The same as albumentations' GaussNoise, whose new numbers for each picture take longer than
    decoding its PNG.
    """

    def __init__(self, size: int, p: float):
        super().__init__(p=p)
        side = size + NOISE_ROOM
        normal = np.random.default_rng(0).standard_normal((side, side), dtype=np.float32)
        tile = np.round(128 + NOISE_DEVIATION * normal)
        self.tile = np.clip(tile, 0, 255).astype(np.uint8)

    def get_params(self) -> dict[str, Any]:
        return {
            "weight": self.py_random.uniform(0, 255 * MOST_NOISE / NOISE_DEVIATION),
            "y": self.py_random.randint(0, NOISE_ROOM),
            "x": self.py_random.randint(0, NOISE_ROOM),
        }

    def apply(self, img: np.ndarray, weight: float, y: int, x: int, **params: Any) -> np.ndarray:
        del params
        height, width = img.shape
        noise = self.tile[y : y + height, x : x + width]
        return cv2.addWeighted(img, 1, noise, weight, -128 * weight)


class LevelAugmentation:
    """A level of the paper, for pictures that become (size, size).

    albumentations draws uniform ranges only, so the normal distributions of the paper (affine,
    gamma) are drawn here; specks and blur are albumentations'.
    """

    def __init__(self, name: str, size: int):
        self.level = LEVELS[name]
        self.size = size
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

    def __call__(self, annotated: AnnotatedImage, rng: np.random.Generator) -> AnnotatedImage:
        matrix = random_affine(rng, self.level, self.size)
        image = warp(resize(annotated.image, self.size), matrix, self.size)
        mask = annotated.mask
        if mask is not None:
            mask = warp(resize(255 * mask, self.size), matrix, self.size)
            mask = (mask > 127).view(np.uint8)

        boxes = annotated.boxes * (self.size / len(annotated.image))
        boxes, labels = visible(warp_boxes(boxes, matrix), annotated.labels, self.size)

        image = cv2.LUT(image, gamma_table(2 ** rng.normal(0, self.level.gamma)))
        if self.level.noise:
            image = self._with_noise(image, rng)
        return AnnotatedImage(image, boxes, labels, mask)

    def _with_noise(self, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """The picture with specks, blur and noise, each or none.

        One state serves all three: set_random_seed would give each the same numbers, so that all
        or none happen.
        """
        numpy_seed, python_seed = rng.integers(2**31, size=2).tolist()
        self.pixels.set_random_state(np.random.default_rng(numpy_seed), random.Random(python_seed))
        return self.pixels(image=image)["image"]


def warp(picture: np.ndarray, matrix: np.ndarray, side: int) -> np.ndarray:
    """Picture (side, side) after an affine map (2, 3) of its pixels x y 1; black beyond."""
    return cv2.warpAffine(picture, of_pixel_centres(matrix), (side, side), flags=cv2.INTER_LINEAR)


def of_pixel_centres(matrix: np.ndarray) -> np.ndarray:
    """The matrix (2, 3) for cv2's pixel numbers.

    Whole numbers are the centres of pixels there, not their edges.
    """
    linear = matrix[:, :2]
    shift = matrix[:, 2:]
    return np.hstack([linear, shift + linear.sum(1, keepdims=True) / 2 - 0.5])


def random_affine(rng: np.random.Generator, level: Level, side: int) -> np.ndarray:
    """Matrix (2, 3) within a picture of `side`, of pixels x y 1.

    Scale, shear, rotation about a jittered centre, flip.
    """
    centre = side / 2 + rng.uniform(-CENTRE_JITTER, CENTRE_JITTER, 2) * side
    scale = 2 ** rng.normal(0, level.scale, 2)
    angle, shear = np.deg2rad(rng.normal(0, 1, 2) * (level.angle, level.shear))
    flipped = rng.random() < level.flip

    cosine = np.cos(angle)
    sine = np.sin(angle)
    turning = np.array([[cosine, -sine], [sine, cosine]])
    shearing = np.array([[1, np.tan(shear)], [0, 1]])
    linear = turning @ shearing @ np.diag(scale)
    shift = centre - linear @ centre
    if flipped:
        linear = np.diag([-1, 1]) @ linear
        shift = np.array([side - shift[0], shift[1]])
    return np.hstack([linear, shift[:, None]])


def visible(
    boxes: np.ndarray, labels: np.ndarray, size: int, share: float = SMALLEST_SHARE
) -> tuple[np.ndarray, np.ndarray]:
    """Boxes (m, 4) cut at the edges of a picture of this side, and their labels (m,).

    Of boxes (n, 4), those that keep less than `share` of their area, or under 2 pixels of a side,
    are dropped.
    """
    clipped = clip_boxes(boxes, size, size)
    area = np.prod(boxes[:, 2:] - boxes[:, :2], 1)
    sides = clipped[:, 2:] - clipped[:, :2]
    is_large = sides.min(1, initial=np.inf) > SMALLEST_SIDE
    kept = (np.prod(sides, 1) > share * area) & is_large
    return clipped[kept], labels[kept]


def gamma_table(gamma: float) -> np.ndarray:
    """(256,) uint8: what each gray value becomes."""
    return np.round(255 * (np.arange(256) / 255) ** gamma).astype(np.uint8)
