"""Chest X-rays that are drawn with the findings of ChestX-Det10, each with its box."""

from dataclasses import dataclass

import numpy as np

from cxr.datasets.phantom.chest import (
    Chest,
    blob,
    cage_width,
    clouds,
    develop,
    draw_consolidation,
    draw_heart,
    draw_label,
    draw_lung,
    draw_vessels,
    frame_grid,
    soft,
    strokes,
    surround,
    thickness,
)


@dataclass
class Scene:
    """What the rays cross, changed by one finding after the other: arrays (side, side)."""

    chest: Chest
    grid: tuple
    lungs: list
    density: (
        np.ndarray
    )  # of the tissue in the lungs: 1 as dense as the heart, below 0 more air than usual
    markings: np.ndarray  # vessels and other fine structures
    bright: np.ndarray  # calcium and bone


def below_apex(scene):
    """(side, 1) mask of the heights that have lung; a drawn lung goes on into the neck, where nobody sees it."""
    return scene.grid[1] > scene.chest.top


def disc(x, y, half_width, half_height=None):
    """Box x1 y1 x2 y2 around an ellipse."""
    half_height = half_height or half_width
    return np.array([x - half_width, y - half_height, x + half_width, y + half_height])


def place(rng, scene, side, low=0.2, high=0.8):
    """A point inside the lung of that side (0 or 1), between two shares of its height."""
    chest = scene.chest
    y = chest.top + (chest.bottom - chest.top) * rng.uniform(low, high)
    return chest.centre + (2 * side - 1) * rng.uniform(0.11, cage_width(chest, y) - 0.06), y


def consolidation(rng, scene, side):
    patch, box = draw_consolidation(
        rng, scene.grid, scene.lungs[side], 2 * side - 1, scene.chest, None
    )
    scene.density = np.maximum(scene.density, patch * rng.uniform(0.65, 0.95))
    return box


def fibrosis(rng, scene, side):
    x, y = place(rng, scene, side, 0.55, 0.8)
    region = (
        blob(scene.grid, x, y, rng.uniform(0.07, 0.11), rng.uniform(0.07, 0.12)) * scene.lungs[side]
    )
    scene.markings = scene.markings + region * np.clip(
        np.abs(clouds(rng, len(region), 70)) * 2.5 - 0.3, 0, 3
    )
    return surround(region > 0.5)


def effusion(rng, scene, side):
    before = scene.lungs[side]
    scene.lungs[side] = np.minimum(
        before, draw_lung(scene.grid, scene.chest, 2 * side - 1, rng.uniform(0.14, 0.28))
    )
    return surround(before - scene.lungs[side] > 0.4)


def round_shadow(rng, scene, side, radius):
    x, y = place(rng, scene, side)
    shadow = blob(scene.grid, x, y, radius, radius, 0.08)
    scene.density = np.maximum(scene.density, shadow * rng.uniform(0.8, 1))
    return disc(x, y, radius)


def nodule(rng, scene, side):
    return round_shadow(rng, scene, side, rng.uniform(0.013, 0.024))


def mass(rng, scene, side):
    return round_shadow(rng, scene, side, rng.uniform(0.04, 0.065))


def emphysema(rng, scene, side):
    lung = scene.lungs[side]
    scene.density = np.where(scene.density > 0.2, scene.density, scene.density - 0.3 * lung)
    scene.markings = scene.markings * (1 - 0.7 * lung)
    return surround((lung > 0.5) & below_apex(scene))


def calcification(rng, scene, side):
    x, y = place(rng, scene, side, 0.15, 0.5)
    for dx, dy in rng.uniform(-0.014, 0.014, (5, 2)):
        scene.bright = np.maximum(
            scene.bright, 1.4 * blob(scene.grid, x + dx, y + dy, 0.007, 0.007)
        )
    return disc(x, y, 0.02)


def atelectasis(rng, scene, side):
    x, y = place(rng, scene, side, 0.6, 0.78)
    half_width, half_height = rng.uniform(0.06, 0.09), rng.uniform(0.012, 0.02)
    scene.density = np.maximum(
        scene.density, 0.9 * blob(scene.grid, x, y, half_width, half_height, 0.15)
    )
    return disc(x, y, half_width, half_height)


def fracture(rng, scene, side):
    y = scene.chest.top + (scene.chest.bottom - scene.chest.top) * rng.uniform(0.3, 0.85)
    x = scene.chest.centre + (2 * side - 1) * 0.96 * cage_width(scene.chest, y)
    line = np.array([[x - 0.012, y - 0.022], [x + 0.012, y + 0.022]])
    scene.bright = scene.bright + 1.5 * strokes(len(scene.density), [line], 0.008, 0.002)
    scene.bright = scene.bright + 0.7 * blob(scene.grid, x, y, 0.022, 0.022, 0.2)
    return disc(x, y, 0.03)


def collapse(rng, scene, side):
    """Air between the ribs and a lung that has fallen inwards: mask (side, side) of 0 and 1."""
    chest, (x, y) = scene.chest, scene.grid
    outwards = (2 * side - 1) * (x - chest.centre)
    edge = rng.uniform(0.55, 0.72) * cage_width(chest, y)
    gap = (
        soft(outwards - edge, 0.004)
        * soft(chest.top + rng.uniform(0.28, 0.42) - y, 0.01)
        * scene.lungs[side]
    )
    scene.density = np.where(gap > 0.5, -0.3, scene.density)
    scene.markings = scene.markings * (1 - gap)
    scene.bright = scene.bright + 0.5 * (gap > 0.2) * np.exp(-(((outwards - edge) / 0.003) ** 2))
    return ((gap > 0.5) & below_apex(scene)).astype(np.uint8)


def pneumothorax(rng, scene, side):
    return surround(collapse(rng, scene, side))


DRAW = {
    "Consolidation": consolidation,
    "Fibrosis": fibrosis,
    "Effusion": effusion,
    "Nodule": nodule,
    "Mass": mass,
    "Emphysema": emphysema,
    "Calcification": calcification,
    "Atelectasis": atelectasis,
    "Fracture": fracture,
    "Pneumothorax": pneumothorax,
}
# Those that change a whole lung come first, so that what lies in it is drawn over them.
ORDER = (
    "Emphysema",
    "Effusion",
    "Pneumothorax",
    *(name for name in DRAW if name not in ("Emphysema", "Effusion", "Pneumothorax")),
)


def healthy(rng, chest, side):
    """Scene without a finding."""
    grid, nothing = frame_grid(side), np.zeros((side, side), np.float32)
    return Scene(
        chest,
        grid,
        [draw_lung(grid, chest, sign) for sign in (-1, 1)],
        nothing,
        draw_vessels(rng, side, chest) * rng.uniform(0.8, 1.1),
        nothing,
    )


def draw_findings(rng, chest, names, side):
    """uint8 image (side, side) with these findings; (name, box x1 y1 x2 y2 in 0..1) of each, in the order drawn."""
    scene = healthy(rng, chest, side)
    found = [
        (name, np.clip(DRAW[name](rng, scene, int(rng.integers(2))), 0, 1))
        for name in sorted(names, key=ORDER.index)
    ]
    return expose(rng, scene), found


def expose(rng, scene):
    """uint8 image (side, side) of a scene."""
    grid, chest = scene.grid, scene.chest
    heart = draw_heart(grid, chest)
    tissue = thickness(rng, grid, chest, scene.lungs, heart, scene.density, scene.markings)
    return develop(
        rng, tissue + 0.25 * scene.bright, draw_label(rng, len(scene.density), chest.view)
    )
