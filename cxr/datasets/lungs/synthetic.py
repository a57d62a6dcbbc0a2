"""A small synthetic copy of X-rays with lung masks in the layout of the real ones."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from cxr.datasets.phantom.chest import draw_chest
from cxr.datasets.phantom.findings import DRAW, below_apex, expose, healthy
from cxr.datasets.phantom.folder import building, is_made

# File names of the Shenzhen and Montgomery County collections: number, and 1 for the ill.
SHENZHEN = "CHNCXR_{:04}_{}.png"
MONTGOMERY = "MCUCXR_{:04}_{}.png"


class LungPicture(NamedTuple):
    """uint8 picture (side, side) and the mask (side, side) of both lungs, 0 and 1."""

    image: np.ndarray
    mask: np.ndarray


def draw_picture(rng: np.random.Generator, ill: bool, side: int) -> LungPicture:
    """An X-ray, with a consolidation if ill, and its lungs."""
    sex = str(rng.choice(["F", "M"]))
    age = int(rng.integers(18, 90))
    scene = healthy(rng, draw_chest(rng, "PA", sex, age), side)
    both_lungs = scene.lungs[0] + scene.lungs[1] > 0.5
    mask = (both_lungs & below_apex(scene)).astype(np.uint8)
    if ill:
        lung = int(rng.integers(2))
        DRAW["Consolidation"](rng, scene, lung)
    return LungPicture(expose(rng, scene), mask)


def write_lungs(
    folder: Path, n_train: int = 160, n_test: int = 24, seed: int = 0, side: int = 256
) -> bool:
    """Write n_train pictures with masks and n_test without into `folder`, of (side, side) pixels.

    The folder appears whole or not at all. One that was made with the same settings is kept:
    returns False. Raises InputError if the folder holds anything else.
    """
    folder = Path(folder)
    settings = {"n_train": n_train, "n_test": n_test, "seed": seed, "side": side}
    if is_made(folder, settings):
        return False
    with building(folder, settings) as unfinished:
        (unfinished / "cxr").mkdir()
        (unfinished / "masks").mkdir()
        for number in range(n_train + n_test):
            rng = np.random.default_rng([seed, number])
            ill = number % 2
            pattern = MONTGOMERY if number % 3 == 0 else SHENZHEN
            name = pattern.format(number, ill)
            picture = draw_picture(rng, bool(ill), side)
            cv2.imwrite(str(unfinished / "cxr" / name), picture.image)
            if number < n_train:
                cv2.imwrite(str(unfinished / "masks" / name), 255 * picture.mask)
    return True
