"""A small fake of X-rays with lung masks in the layout of the real ones."""

from pathlib import Path

import cv2
import numpy as np

from cxr.datasets.phantom.chest import draw_chest
from cxr.datasets.phantom.findings import DRAW, below_apex, expose, healthy
from cxr.datasets.rsna.synthetic import write_whole

NAMES = ("CHNCXR_{:04}_{}.png", "MCUCXR_{:04}_{}.png")


def write_lungs(folder, n_train=160, n_test=24, seed=0, side=256):
    """Write n_train pictures with masks and n_test without into `folder`, which appears whole or not at all.

    One that was made with the same settings is kept: returns False. InputError if `folder` holds anything else.
    """

    def fill(building):
        for name in ("cxr", "masks"):
            (building / name).mkdir(parents=True)
        for number in range(n_train + n_test):
            rng, ill = np.random.default_rng([seed, number]), number % 2
            name = NAMES[number % 3 == 0].format(number, ill)
            image, mask = draw_picture(rng, ill, side)
            cv2.imwrite(str(building / "cxr" / name), image)
            if number < n_train:
                cv2.imwrite(str(building / "masks" / name), 255 * mask)

    return write_whole(
        Path(folder), {"n_train": n_train, "n_test": n_test, "seed": seed, "side": side}, fill
    )


def draw_picture(rng, ill, side):
    """uint8 image (side, side), with a consolidation if ill, and the mask of both lungs, 0 and 1."""
    chest = draw_chest(rng, "PA", str(rng.choice(["F", "M"])), int(rng.integers(18, 90)))
    scene = healthy(rng, chest, side)
    mask = ((scene.lungs[0] + scene.lungs[1] > 0.5) & below_apex(scene)).astype(np.uint8)
    if ill:
        DRAW["Consolidation"](rng, scene, int(rng.integers(2)))
    return expose(rng, scene), mask
