"""Augmentation of X-rays with masks, as winners drew it.

The five winners of SIIM-ACR Pneumothorax and the 17th place of SIIM COVID-19. Written anew with
today's albumentations, which has renamed much since 2019; image and mask go through the same warp.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace

import cv2
import numpy as np

from cxr.data.annotated_image import AnnotatedImage
from cxr.data.augmentation import BOX_AUGMENTATIONS, A  # A: its question for news is off
from cxr.geometry.masks import resize_mask
from cxr.images.resize import resize

Transforms = list[A.BasicTransform | A.BaseCompose]
Recipe = Callable[[int], Transforms]  # of the side of the network's input


def affine(
    shift: float, scale: tuple[float, float], degrees: float, p: float, border: int
) -> A.Affine:
    """The ShiftScaleRotate of 2019: one scale for both sides. shift: share of the side."""
    return A.Affine(
        translate_percent=(-shift, shift),
        scale=scale,
        rotate=(-degrees, degrees),
        p=p,
        border_mode=border,
        keep_ratio=True,
    )


def distortions(border: int) -> A.OneOf:
    """One of three distortions, in three of ten pictures."""
    return A.OneOf(
        [
            # As the ElasticTransform of 2019.
            A.ElasticTransform(
                alpha=120, sigma=6, noise_distribution="uniform", border_mode=border
            ),
            A.GridDistortion(num_steps=5, distort_limit=0.3, border_mode=border),
            A.OpticalDistortion(distort_limit=2.0, border_mode=border),
        ],
        p=0.3,
    )


def brightness(limit: float, p: float = 0.5) -> A.RandomBrightnessContrast:
    """A change of brightness alone."""
    return A.RandomBrightnessContrast(brightness_limit=limit, contrast_limit=0, p=p)


def first_place(size: int) -> Transforms:
    del size
    border = cv2.BORDER_REFLECT_101
    return [
        A.HorizontalFlip(p=0.5),
        A.OneOf(
            [
                A.RandomBrightnessContrast(brightness_limit=0, contrast_limit=0.2),
                A.RandomGamma((80, 120)),
                brightness(0.2),
            ],
            p=0.3,
        ),
        distortions(border),
        affine(0.0625, (0.9, 1.1), 45, 0.5, border),
    ]


def second_place(size: int) -> Transforms:
    del size
    return [
        A.OneOf(
            [
                A.RandomGamma((60, 120), p=0.9),
                A.RandomBrightnessContrast(0.2, 0.2, p=0.9),
                A.CLAHE(4.0, (4, 4), p=0.9),
            ],
            p=0.5,
        ),
        A.OneOf([A.Blur((3, 5)), A.MotionBlur((3, 5)), A.MedianBlur((3, 5))], p=0.5),
        A.HorizontalFlip(p=0.5),
        affine(0.2, (0.8, 1.2), 20, 1.0, cv2.BORDER_CONSTANT),
    ]


def third_place(size: int) -> Transforms:
    """One of seven, the first of which changes nothing."""
    side = round(0.2**0.5 * size)
    return [
        A.OneOf(
            [
                A.NoOp(p=1),
                A.HorizontalFlip(p=1),
                A.Rotate((-30, 30), border_mode=cv2.BORDER_CONSTANT, p=1),
                A.RandomResizedCrop((size, size), scale=(0.64, 1.0), ratio=(0.9, 1.1), p=1),
                A.CoarseDropout(
                    num_holes_range=(1, 1),
                    hole_height_range=(side, side),
                    hole_width_range=(side, side),
                    fill=0,
                    fill_mask=0,
                    p=1,
                ),
                A.RandomBrightnessContrast(0.2, 0.2, p=1),
                A.GaussianBlur(blur_limit=0, sigma_limit=(0.05, 0.3), p=1),
            ],
            p=1,
        )
    ]


def fourth_place(size: int) -> Transforms:
    """Crops of 512 of 768 pixels; the network sees whole images in validation."""
    border = cv2.BORDER_CONSTANT
    crop = 2 * size // 3
    return [
        A.HorizontalFlip(p=0.5),
        A.OneOf([A.RandomBrightnessContrast(0.2, 0.2)], p=0.3),
        distortions(border),
        affine(0.2, (0.8, 1.2), 20, 0.5, border),
        A.RandomCrop(crop, crop),
    ]


def fifth_place(size: int) -> Transforms:
    """One hole of 5 to 15 of 1024 pixels."""
    smallest = max(1, size * 5 // 1024)
    largest = max(1, size * 15 // 1024)
    return [
        A.HorizontalFlip(p=0.5),
        affine(0.0, (0.85, 1.15), 25, 1.0, cv2.BORDER_CONSTANT),
        A.CoarseDropout(
            num_holes_range=(1, 1),
            hole_height_range=(smallest, largest),
            hole_width_range=(smallest, largest),
            fill=0,
            p=0.5,
        ),
        brightness(0.05),
    ]


def seventeenth_place(size: int) -> Transforms:
    """SIIM COVID-19's.

    Its change of hue and saturation is left out, as it does nothing to gray; so is one of its two
    kinds of Gaussian noise, of variance 10 to 50. Its holes were 25 x 8 of 448 pixels, whatever
    its settings said.
    """
    height = max(1, round(25 * size / 448))
    width = max(1, round(8 * size / 448))
    return [
        A.HorizontalFlip(p=0.5),
        A.VerticalFlip(p=0.5),
        A.Transpose(p=0.5),
        affine(0.0625, (0.9, 1.1), 45, 0.3, cv2.BORDER_REFLECT_101),
        A.GaussNoise(std_range=(10**0.5 / 255, 50**0.5 / 255), p=0.5),
        A.RandomBrightnessContrast(0.25, 0.25, p=0.5),
        A.CLAHE(3.0, (8, 8), p=0.5),
        A.OneOf([A.MotionBlur(3), A.MedianBlur(3), A.Blur(3)], p=0.2),
        A.CoarseDropout(
            num_holes_range=(2, 2),
            hole_height_range=(height, height),
            hole_width_range=(width, width),
            fill=0,
            p=0.5,
        ),
    ]


RECIPES: dict[str, Recipe] = {
    "first": first_place,
    "second": second_place,
    "third": third_place,
    "fourth": fourth_place,
    "fifth": fifth_place,
    "seventeenth": seventeenth_place,
}

AUGMENTATIONS = (*BOX_AUGMENTATIONS, *RECIPES)


class MaskAugmentation:
    """A recipe, for pictures that become (size, size), or what the recipe crops of that.

    Boxes are given back as they came: nothing that learns masks uses them.
    """

    def __init__(self, recipe: str, size: int):
        self.size = size
        self.transforms = A.Compose(RECIPES[recipe](size))

    def __call__(self, annotated: AnnotatedImage, rng: np.random.Generator) -> AnnotatedImage:
        numpy_seed, python_seed = rng.integers(2**31, size=2).tolist()
        self.transforms.set_random_state(
            np.random.default_rng(numpy_seed), random.Random(python_seed)
        )
        image = resize(annotated.image, self.size)
        if annotated.mask is None:
            return replace(annotated, image=self.transforms(image=image)["image"])
        mask = resize_mask(annotated.mask, self.size)
        changed = self.transforms(image=image, mask=mask)
        return replace(annotated, image=changed["image"], mask=changed["mask"])
