"""Chest X-rays that are drawn with the findings of ChestX-Det10, each with its box.

A lung is called by its number: 0 is the one left of the midline in the picture, 1 the other.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from cxr.datasets.phantom.chest import (
    Chest,
    PixelGrid,
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
    """What the rays cross, changed by one finding after the other: maps (side, side).

    `density` is that of the tissue in the lungs: 1 as dense as the heart, below 0 more air than
    usual. `markings` are vessels and other fine structures, `bright` is calcium and bone.
    """

    chest: Chest
    grid: PixelGrid
    lungs: list[np.ndarray]
    density: np.ndarray
    markings: np.ndarray
    bright: np.ndarray

    @property
    def side(self) -> int:
        return len(self.density)


class Point(NamedTuple):
    """A place in the frame, in 0..1."""

    x: float
    y: float


def healthy(rng: np.random.Generator, chest: Chest, side: int) -> Scene:
    """Scene without a finding, for pictures (side, side)."""
    grid = frame_grid(side)
    lungs = [draw_lung(grid, chest, sign) for sign in (-1, 1)]
    markings = draw_vessels(rng, side, chest) * rng.uniform(0.8, 1.1)
    density = np.zeros((side, side), np.float32)
    bright = np.zeros((side, side), np.float32)
    return Scene(chest, grid, lungs, density, markings, bright)


def expose(rng: np.random.Generator, scene: Scene) -> np.ndarray:
    """uint8 picture (side, side) of a scene."""
    heart = draw_heart(scene.grid, scene.chest)
    tissue = thickness(
        rng, scene.grid, scene.chest, scene.lungs, heart, scene.density, scene.markings
    )
    label = draw_label(rng, scene.side, scene.chest.view)
    return develop(rng, tissue + 0.25 * scene.bright, label)


def draw_with_findings(
    rng: np.random.Generator, chest: Chest, names: Iterable[str], side: int
) -> tuple[np.ndarray, list[tuple[str, np.ndarray]]]:
    """uint8 picture (side, side) with these findings, and the name and box of each.

    Boxes are x1 y1 x2 y2 in 0..1; findings are listed in the order in which they are drawn.
    """
    scene = healthy(rng, chest, side)
    findings = []
    for name in sorted(names, key=ORDER.index):
        lung = int(rng.integers(2))
        box = DRAW[name](rng, scene, lung)
        findings.append((name, np.clip(box, 0, 1)))
    return expose(rng, scene), findings


def below_apex(scene: Scene) -> np.ndarray:
    """(side, 1) bool: heights that have lung. A drawn lung goes on, unseen, into the neck."""
    return scene.grid.y > scene.chest.top


def box_around(centre: Point, half_width: float, half_height: float | None = None) -> np.ndarray:
    """Box x1 y1 x2 y2 around an ellipse, or a circle where the half height is left out."""
    if half_height is None:
        half_height = half_width
    x, y = centre
    return np.array([x - half_width, y - half_height, x + half_width, y + half_height])


def point_in_lung(
    rng: np.random.Generator, scene: Scene, lung: int, low: float = 0.2, high: float = 0.8
) -> Point:
    """A point inside a lung, between two shares of its height."""
    chest = scene.chest
    y = chest.top + chest.height * rng.uniform(low, high)
    from_midline = rng.uniform(0.11, cage_width(chest, y) - 0.06)
    return Point(chest.centre + (2 * lung - 1) * from_midline, y)


# Each of the following changes the scene and returns the finding's box x1 y1 x2 y2 in 0..1.


def add_consolidation(rng: np.random.Generator, scene: Scene, lung: int) -> np.ndarray:
    opacity = draw_consolidation(rng, scene.grid, scene.lungs[lung], 2 * lung - 1, scene.chest)
    scene.density = np.maximum(scene.density, opacity.density * rng.uniform(0.65, 0.95))
    return opacity.box


def add_fibrosis(rng: np.random.Generator, scene: Scene, lung: int) -> np.ndarray:
    x, y = point_in_lung(rng, scene, lung, 0.55, 0.8)
    half_width = rng.uniform(0.07, 0.11)
    half_height = rng.uniform(0.07, 0.12)
    region = blob(scene.grid, x, y, half_width, half_height) * scene.lungs[lung]
    scars = np.clip(np.abs(clouds(rng, scene.side, 70)) * 2.5 - 0.3, 0, 3)
    scene.markings = scene.markings + region * scars
    return surround(region > 0.5)


def add_effusion(rng: np.random.Generator, scene: Scene, lung: int) -> np.ndarray:
    return fill_with_fluid(scene, lung, rng.uniform(0.14, 0.28))


def fill_with_fluid(scene: Scene, lung: int, height: float) -> np.ndarray:
    """Fill the bottom of a lung up to a height in fractions of the frame; the fluid's box."""
    dry = scene.lungs[lung]
    wet = draw_lung(scene.grid, scene.chest, 2 * lung - 1, height)
    scene.lungs[lung] = np.minimum(dry, wet)
    return surround(dry - scene.lungs[lung] > 0.4)


def add_nodule(rng: np.random.Generator, scene: Scene, lung: int) -> np.ndarray:
    return add_round_shadow(rng, scene, lung, rng.uniform(0.013, 0.024))


def add_mass(rng: np.random.Generator, scene: Scene, lung: int) -> np.ndarray:
    return add_round_shadow(rng, scene, lung, rng.uniform(0.04, 0.065))


def add_round_shadow(
    rng: np.random.Generator, scene: Scene, lung: int, radius: float
) -> np.ndarray:
    centre = point_in_lung(rng, scene, lung)
    shadow = blob(scene.grid, centre.x, centre.y, radius, radius, 0.08)
    scene.density = np.maximum(scene.density, shadow * rng.uniform(0.8, 1))
    return box_around(centre, radius)


def add_emphysema(rng: np.random.Generator, scene: Scene, lung: int) -> np.ndarray:  # noqa: ARG001
    area = scene.lungs[lung]
    scene.density = np.where(scene.density > 0.2, scene.density, scene.density - 0.3 * area)
    scene.markings = scene.markings * (1 - 0.7 * area)
    return surround((area > 0.5) & below_apex(scene))


def add_calcification(rng: np.random.Generator, scene: Scene, lung: int) -> np.ndarray:
    centre = point_in_lung(rng, scene, lung, 0.15, 0.5)
    for dx, dy in rng.uniform(-0.014, 0.014, (5, 2)):
        grain = blob(scene.grid, centre.x + dx, centre.y + dy, 0.007, 0.007)
        scene.bright = np.maximum(scene.bright, 1.4 * grain)
    return box_around(centre, 0.02)


def add_atelectasis(rng: np.random.Generator, scene: Scene, lung: int) -> np.ndarray:
    centre = point_in_lung(rng, scene, lung, 0.6, 0.78)
    half_width = rng.uniform(0.06, 0.09)
    half_height = rng.uniform(0.012, 0.02)
    plate = blob(scene.grid, centre.x, centre.y, half_width, half_height, 0.15)
    scene.density = np.maximum(scene.density, 0.9 * plate)
    return box_around(centre, half_width, half_height)


def add_fracture(rng: np.random.Generator, scene: Scene, lung: int) -> np.ndarray:
    chest = scene.chest
    y = chest.top + chest.height * rng.uniform(0.3, 0.85)
    x = chest.centre + (2 * lung - 1) * 0.96 * cage_width(chest, y)
    line = np.array([[x - 0.012, y - 0.022], [x + 0.012, y + 0.022]])
    edge = 1.5 * strokes(scene.side, [line], 0.008, 0.002)
    callus = 0.7 * blob(scene.grid, x, y, 0.022, 0.022, 0.2)
    scene.bright = scene.bright + edge + callus
    return box_around(Point(x, y), 0.03)


def add_pneumothorax(rng: np.random.Generator, scene: Scene, lung: int) -> np.ndarray:
    return surround(collapse(rng, scene, lung))


def collapse(rng: np.random.Generator, scene: Scene, lung: int) -> np.ndarray:
    """Air between the ribs and a lung that has fallen inwards: its mask (side, side), 0 and 1."""
    chest = scene.chest
    x, y = scene.grid
    outwards = (2 * lung - 1) * (x - chest.centre)
    edge = rng.uniform(0.55, 0.72) * cage_width(chest, y)
    floor = chest.top + rng.uniform(0.28, 0.42)
    gap = soft(outwards - edge, 0.004) * soft(floor - y, 0.01) * scene.lungs[lung]
    scene.density = np.where(gap > 0.5, -0.3, scene.density)
    scene.markings = scene.markings * (1 - gap)
    pleural_line = np.exp(-(((outwards - edge) / 0.003) ** 2))
    scene.bright = scene.bright + 0.5 * (gap > 0.2) * pleural_line
    return ((gap > 0.5) & below_apex(scene)).astype(np.uint8)


# The names are those of ChestX-Det10.
DRAW: dict[str, Callable[[np.random.Generator, Scene, int], np.ndarray]] = {
    "Consolidation": add_consolidation,
    "Fibrosis": add_fibrosis,
    "Effusion": add_effusion,
    "Nodule": add_nodule,
    "Mass": add_mass,
    "Emphysema": add_emphysema,
    "Calcification": add_calcification,
    "Atelectasis": add_atelectasis,
    "Fracture": add_fracture,
    "Pneumothorax": add_pneumothorax,
}
# Those that change a whole lung come first, so that what lies in it is drawn over them.
ORDER = (
    "Emphysema",
    "Effusion",
    "Pneumothorax",
    "Consolidation",
    "Fibrosis",
    "Nodule",
    "Mass",
    "Calcification",
    "Atelectasis",
    "Fracture",
)
