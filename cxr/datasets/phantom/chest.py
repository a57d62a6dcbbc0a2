"""Chest X-rays that are drawn, not taken, with opacities whose boxes are known.

A map of the tissue that the rays cross (body, air in the lungs, heart, bones, vessels, findings),
shown brighter where more tissue lies. Geometry is in fractions of the frame: x to the right, y
down, both 0 to 1. Pictures and maps are (side, side); a lung's sign is -1 for the one left of the
midline in the picture and +1 for the one right of it.

The order of the random draws is part of what is drawn: the same seed gives the same picture.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypeVar

import cv2
import numpy as np

NORMAL = "Normal"
NOT_NORMAL = "No Lung Opacity / Not Normal"
OPACITY = "Lung Opacity"
# Share of the positive images of the RSNA training set that have 1, 2, 3 and 4 boxes.
BOX_COUNTS = np.array([2614, 3266, 119, 13]) / 6012
BOX_EDGE = 0.4  # a box surrounds what is denser than this; full density is 1
Heights = TypeVar("Heights", float, np.ndarray)  # one, or an array of them
OTHER_FINDINGS = ("heart", "effusion", "nodules", "devices", "fibrosis")  # of NOT_NORMAL images


@dataclass(frozen=True)
class Chest:
    """One patient's build, in fractions of the frame.

    `top` and `bottom` are the heights of the lungs' ends, `outer` is the half width of the rib
    cage, `heart` the half width of the heart.
    """

    view: str
    sex: str
    age: int
    centre: float
    top: float
    bottom: float
    outer: float
    heart: float

    @property
    def height(self) -> float:
        return self.bottom - self.top


class PixelGrid(NamedTuple):
    """Pixel centres in 0..1: x (1, side) and y (side, 1)."""

    x: np.ndarray
    y: np.ndarray


class Zone(NamedTuple):
    """Where in a lung an opacity may lie: its middle between two shares of the lung's height.

    `largest` bounds the half height of the opacity, as a share of the lung's height.
    """

    low: float
    high: float
    largest: float


WHOLE_LUNG = Zone(0.35, 0.8, 0.4)
UPPER_LUNG = Zone(0.22, 0.3, 0.13)
LOWER_LUNG = Zone(0.72, 0.82, 0.13)


class DrawnXray(NamedTuple):
    """A uint8 picture (side, side) and boxes (n, 4) as x1 y1 x2 y2 in 0..1."""

    image: np.ndarray
    boxes: np.ndarray


def draw_chest(rng: np.random.Generator, view: str, sex: str, age: int) -> Chest:
    """A build for a view, PA or AP.

    AP: patient lying, breath not held, tube near: shorter lungs and a bigger heart.
    """
    near = view == "AP"
    centre = 0.5 + rng.normal(0, 0.02)
    top = rng.uniform(0.09, 0.15) + 0.03 * near
    bottom = rng.uniform(0.70, 0.78) - rng.uniform(0.02, 0.09) * near
    outer = rng.uniform(0.33, 0.39)
    heart = rng.uniform(0.115, 0.135) + 0.03 * near + 0.0003 * (age - 50)
    return Chest(view, sex, age, centre, top, bottom, outer, heart)


# ------------------------------------------------------------------------------- brushes


def frame_grid(side: int) -> PixelGrid:
    """float32 pixel centres of a picture (side, side)."""
    line = (np.arange(side, dtype=np.float32) + 0.5) / side
    return PixelGrid(line[None, :], line[:, None])


def soft(distance: np.ndarray, edge: float) -> np.ndarray:
    """1 well inside (positive distance), 0 well outside, smooth over about `edge`."""
    return 1 / (1 + np.exp(np.clip(-distance / edge, -30, 30)))


def blob(
    grid: PixelGrid,
    x: float,
    y: float,
    half_width: float,
    half_height: float,
    edge: float = 0.08,
) -> np.ndarray:
    """A soft ellipse around (x, y): (side, side) in 0..1."""
    radius = np.hypot((grid.x - x) / half_width, (grid.y - y) / half_height)
    return soft(1 - radius, edge)


def clouds(rng: np.random.Generator, side: int, cells: int) -> np.ndarray:
    """Smooth noise (side, side), mean 0, deviation about 1, structures of side / cells pixels."""
    coarse = rng.standard_normal((cells + 2, cells + 2)).astype(np.float32)
    return cv2.resize(coarse, (side, side), interpolation=cv2.INTER_CUBIC)


def strokes(side: int, lines: Sequence[np.ndarray], width: float, blur: float) -> np.ndarray:
    """Smooth polylines as (side, side) float32 in 0..1.

    lines: points (n, 2) in 0..1 of each. width, blur: in fractions of the frame.
    """
    canvas = np.zeros((side, side), np.uint8)
    thickness_in_pixels = max(1, round(width * side))
    for points in lines:
        fixed_point = np.round(np.asarray(points) * side * 16).astype(np.int32)  # 4 fractional bits
        cv2.polylines(canvas, [fixed_point], False, 255, thickness_in_pixels, cv2.LINE_AA, 4)
    return cv2.GaussianBlur(canvas.astype(np.float32) / 255, (0, 0), max(blur * side, 0.3))


def surround(mask: np.ndarray) -> np.ndarray:
    """Box x1 y1 x2 y2 in 0..1 around the largest connected part of a mask (side, side)."""
    _, _, statistics, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8))
    areas = statistics[1:, cv2.CC_STAT_AREA]  # the first row is the background
    x, y, width, height, _ = statistics[1 + np.argmax(areas)]
    return np.array([x, y, x + width, y + height]) / len(mask)


# ------------------------------------------------------------------------------- anatomy


def cage_width(chest: Chest, y: Heights) -> Heights:
    """Half width of the rib cage at height y: round at the apex, widest at the diaphragm."""
    depth = np.clip((y - chest.top) / chest.height, 0, 1)
    return 0.06 + (chest.outer - 0.06) * (1 - (1 - depth) ** 2.4) ** 0.62


def draw_lung(grid: PixelGrid, chest: Chest, sign: int, effusion: float = 0.0) -> np.ndarray:
    """The lung of that sign, (side, side) in 0..1. effusion: height of the fluid in its bottom."""
    outwards = sign * (grid.x - chest.centre)
    depth = np.clip((grid.y - chest.top) / chest.height, 0, 1)
    dome = ((outwards - 0.45 * chest.outer) / (0.55 * chest.outer)) ** 2
    floor = chest.bottom + 0.02 * (sign > 0) - 0.06 * (1 - dome)
    if effusion:
        rise = np.clip(outwards / chest.outer, 0, 1) ** 3
        meniscus = chest.bottom - effusion * (0.45 + 0.55 * rise)
        floor = np.minimum(floor, meniscus)
    inner = 0.048 + 0.012 * np.sin(14 * (grid.y - chest.top)) + 0.02 * depth**3
    inside_cage = soft(cage_width(chest, grid.y) - outwards, 0.004)
    beside_spine = soft(outwards - inner, 0.008)
    above_floor = soft(floor - grid.y, 0.005)
    return inside_cage * beside_spine * above_floor


def draw_body(grid: PixelGrid, chest: Chest) -> np.ndarray:
    """Neck, shoulders, trunk. AP shows the arms at the sides and fills the frame."""
    margin = 0.16 if chest.view == "AP" else 0.07
    trunk = chest.outer + margin
    levels = [0, chest.top - 0.06, chest.top + 0.05, chest.top + 0.16, 0.5, 1]
    half_widths = [0.11, 0.13, 0.42, 0.55, trunk, trunk + 0.02]
    profile = np.interp(grid.y[:, 0], levels, half_widths).astype(np.float32)
    smooth = cv2.GaussianBlur(profile[:, None], (0, 0), 0.02 * len(profile))
    return soft(smooth - np.abs(grid.x - chest.centre), 0.008)


def draw_heart(grid: PixelGrid, chest: Chest, scale: float = 1.0) -> np.ndarray:
    """Heart, great vessels and the aortic knob, which grows with age: (side, side) in 0..1."""
    width = chest.heart * scale
    centre = chest.centre
    base = chest.bottom - 0.08
    tilted = PixelGrid(grid.x - 0.35 * (grid.y - base), grid.y)
    left = blob(tilted, centre + 0.42 * width, base, width, 0.15 + 0.3 * width, 0.06)
    right = blob(grid, centre - 0.1 * width, base, 0.75 * width, 0.16, 0.08)
    vessels = blob(grid, centre + 0.01, chest.top + 0.25, 0.068, 0.25, 0.12)
    knob_width = 0.02 + 0.0004 * chest.age
    knob = blob(grid, centre + 0.045, chest.top + 0.17, knob_width, 0.042, 0.12)
    return 1 - (1 - left) * (1 - right) * (1 - vessels) * (1 - knob)


def draw_bones(rng: np.random.Generator, side: int, chest: Chest) -> np.ndarray:
    """Ribs and clavicles, paler with age. Back ribs fall outwards, front ribs fall inwards."""
    u = np.linspace(0.03, 1, 24)[:, None]
    back = []
    front = []
    for sign in (-1, 1):
        spacing = np.arange(9) * 0.112 + 0.02 + rng.normal(0, 0.004, 9)
        for start in chest.top + chest.height * spacing:
            width = cage_width(chest, start + 0.08)
            fall = 0.10 * u**2.2 - 0.05 * np.sin(np.pi * u) * u
            back.append(np.hstack([chest.centre + sign * u * width, start + fall]))
            front_x = chest.centre + sign * (1 - 0.62 * u) * width
            front.append(np.hstack([front_x, start + 0.10 + 0.13 * u**1.2]))

    rise = rng.uniform(-0.02, 0.02)
    curve = chest.top + 0.075 - 0.06 * u + 0.018 * np.sin(2 * np.pi * u)
    clavicles = []
    for sign in (-1, 1):
        x = chest.centre + sign * (0.03 + 0.33 * u)
        clavicles.append(np.hstack([x, curve + sign * rise * u]))

    edges = strokes(side, back, 0.028, 0.002) - 0.5 * strokes(side, back, 0.016, 0.003)
    front_ribs = strokes(side, front, 0.022, 0.003)
    bones = 1.15 * edges + 0.4 * front_ribs + 0.9 * strokes(side, clavicles, 0.026, 0.003)
    return bones * (1.15 - 0.005 * chest.age)


def draw_spine(grid: PixelGrid, chest: Chest) -> np.ndarray:
    """The column of vertebrae, paler behind the belly."""
    column = soft(0.034 - np.abs(grid.x - chest.centre), 0.004)
    vertebrae = 0.75 + 0.25 * np.sin(2 * np.pi * grid.y / 0.062)
    fading = 1.1 - 0.4 * soft(grid.y - chest.bottom + 0.15, 0.05)
    return column * vertebrae * fading


def draw_vessels(rng: np.random.Generator, side: int, chest: Chest) -> np.ndarray:
    """Branches that leave each hilum, thinner outwards, and the hila themselves."""
    image = np.zeros((side, side), np.float32)
    steps = np.linspace(0, 1, 7)
    middle = chest.top + 0.52 * chest.height
    for width, reach, count in ((0.009, 0.12, 9), (0.005, 0.2, 14), (0.0025, 0.3, 22)):
        lines: list[np.ndarray] = []
        for sign in (-1, 1):
            start_angle = rng.uniform(-1.25, 1.4, (count, 1))
            angle = start_angle + np.cumsum(rng.normal(0, 0.12, (count, 7)), axis=1)
            along = reach * rng.uniform(0.6, 1.1, (count, 1)) * steps
            x = chest.centre + sign * (0.075 + along * np.cos(angle))
            y = middle + 0.02 * sign + along * np.sin(angle) * 1.2
            lines.extend(np.stack([x, y], axis=2))
        image += strokes(side, lines, width, 0.0025)
    return np.minimum(image, 1.5)


# ------------------------------------------------------------------------------- findings


class Opacity(NamedTuple):
    """Density (side, side) in 0..1 and the box x1 y1 x2 y2 in 0..1 around it."""

    density: np.ndarray
    box: np.ndarray


def draw_consolidation(
    rng: np.random.Generator,
    grid: PixelGrid,
    lung: np.ndarray,
    sign: int,
    chest: Chest,
    zone: Zone = WHOLE_LUNG,
) -> Opacity:
    """One opacity in a zone of a lung, given as (side, side) in 0..1."""
    side = lung.shape[0]
    drawn_half_height = rng.lognormal(np.log(0.145), 0.35)
    half_height = np.clip(drawn_half_height, 0.06, chest.height * zone.largest)
    half_width = np.clip(rng.lognormal(np.log(0.102), 0.2), 0.06, 0.16)
    drawn_y = chest.top + chest.height * rng.uniform(zone.low, zone.high)
    y = min(drawn_y, chest.bottom - 0.04 - 0.6 * half_height)
    x = chest.centre + sign * (0.03 + 0.55 * cage_width(chest, y) + rng.normal(0, 0.015))

    ragged = 0.12 * clouds(rng, side, 12) + 0.05 * clouds(rng, side, 40)
    radius = np.hypot((grid.x - x) / half_width, (grid.y - y) / half_height)
    patch = soft(1 - radius + ragged, 0.14) * lung
    grain = 0.85 + 0.13 * clouds(rng, side, 25) + 0.06 * clouds(rng, side, 60)
    return Opacity(patch * np.clip(grain, 0, 1), surround(patch > BOX_EDGE))


class Opacities(NamedTuple):
    """Density (side, side) of all opacities together and their boxes (n, 4) in 0..1."""

    density: np.ndarray
    boxes: np.ndarray


def draw_opacities(
    rng: np.random.Generator,
    grid: PixelGrid,
    lungs: Sequence[np.ndarray],
    chest: Chest,
) -> Opacities:
    """The opacities of a positive image, on the two sides in turn."""
    first = rng.integers(2)
    count = 1 + rng.choice(4, p=BOX_COUNTS)
    sides = (first + np.arange(count)) % 2
    density = np.zeros_like(lungs[0])
    boxes = []
    for number, lung in enumerate(sides):
        zone = WHOLE_LUNG
        if np.sum(sides == lung) > 1:
            zone = (UPPER_LUNG, LOWER_LUNG)[number // 2]
        opacity = draw_consolidation(rng, grid, lungs[lung], 2 * lung - 1, chest, zone)
        density = np.maximum(density, opacity.density * rng.uniform(0.65, 0.95))
        boxes.append(opacity.box)
    return Opacities(density, np.array(boxes))


def draw_nodules(
    rng: np.random.Generator,
    grid: PixelGrid,
    lungs: Sequence[np.ndarray],
    chest: Chest,
) -> np.ndarray:
    """Density (side, side) of one mass or a few nodules: round and sharp, unlike an opacity."""
    if rng.random() < 0.5:
        radii = rng.uniform(0.03, 0.055, 1)
    else:
        count = rng.integers(3, 8)
        radii = rng.uniform(0.012, 0.025, count)
    density = np.zeros_like(lungs[0])
    for radius in radii:
        lung = rng.integers(2)
        y = rng.uniform(chest.top + 0.12, chest.bottom - 0.12)
        x = chest.centre + (2 * lung - 1) * rng.uniform(0.1, cage_width(chest, y) - 0.04)
        shadow = blob(grid, x, y, radius, radius, 0.08)
        density = np.maximum(density, shadow * lungs[int(lung)])
    return density


def draw_devices(rng: np.random.Generator, side: int, chest: Chest) -> np.ndarray:
    """Leads, central line, tube, pacemaker: thin or compact and brighter than any tissue."""
    u = np.linspace(0, 1, 20)[:, None]
    sign = rng.choice([-1, 1])
    centre = chest.centre

    leads = []
    for _ in range(rng.integers(0, 3)):
        x = centre + rng.uniform(-0.4, 0.4) + rng.uniform(-0.3, 0.3) * u + 0.05 * np.sin(5 * u)
        y = rng.uniform(0.1, chest.bottom) + rng.uniform(-0.3, 0.5) * u
        leads.append(np.hstack([x, y]))

    lines = []
    if rng.random() < 0.7:
        line_x = centre + sign * (0.3 * (1 - u) ** 2 + 0.03)
        lines.append(np.hstack([line_x, chest.top + 0.02 + 0.4 * u**1.5]))
    if rng.random() < 0.5:
        lines.append(np.hstack([centre + 0.012 * np.sin(4 * u), 0.3 * u]))
    image = strokes(side, lines + leads, 0.003, 0.001)

    if rng.random() < 0.35:
        image = np.maximum(image, draw_pacemaker(side, centre + 0.25, chest.top + 0.13))
    return image


def draw_pacemaker(side: int, x: float, y: float) -> np.ndarray:
    """A pacemaker's case at (x, y) and its wire to the heart."""
    u = np.linspace(0, 1, 20)[:, None]
    grid = frame_grid(side)
    case = soft(1 - np.hypot((grid.x - x) / 0.055, (grid.y - y) / 0.045) ** 3, 0.05)
    wire = np.hstack([x - 0.24 * u, y - 0.03 * np.sin(3 * u) + 0.42 * u**2])
    return np.maximum(case * 1.3, strokes(side, [wire], 0.004, 0.0012))


def draw_label(rng: np.random.Generator, side: int, view: str) -> np.ndarray:
    """Side marker, and the words that bedside pictures carry: (side, side) float32 in 0..1."""
    canvas = np.zeros((side, side), np.uint8)
    font = cv2.FONT_HERSHEY_SIMPLEX
    scale = side / 900
    x = int(side * rng.uniform(0.82, 0.9))
    y = int(side * rng.uniform(0.05, 0.1))
    thick = max(1, side // 170)
    cv2.putText(canvas, "L", (x, y), font, 1.6 * scale, 255, thick, cv2.LINE_AA)
    if view == "AP" and rng.random() < 0.6:
        below = (x - int(0.07 * side), y + int(0.045 * side))
        thin = max(1, side // 400)
        cv2.putText(canvas, "PORTABLE", below, font, 0.7 * scale, 255, thin, cv2.LINE_AA)
    return canvas.astype(np.float32) / 255


# ------------------------------------------------------------------------------- pictures


def draw_xray(rng: np.random.Generator, chest: Chest, image_class: str, side: int) -> DrawnXray:
    """An X-ray of an RSNA class; it has boxes only if that is an opacity."""
    grid = frame_grid(side)
    findings = choose_other_findings(rng, image_class)

    lungs = []
    effusions = [draw_effusion_height(rng, "effusion" in findings) for _ in range(2)]
    for sign, effusion in zip((-1, 1), effusions, strict=True):
        lungs.append(draw_lung(grid, chest, sign, effusion))
    heart_scale = rng.uniform(1.35, 1.7) if "heart" in findings else 1.0
    heart = draw_heart(grid, chest, heart_scale)

    density = np.zeros((side, side), np.float32)
    boxes = np.zeros((0, 4))
    if image_class == OPACITY:
        beside_heart = [lung * (1 - 0.8 * heart) for lung in lungs]
        density, boxes = draw_opacities(rng, grid, beside_heart, chest)
    if "nodules" in findings:
        density = np.maximum(density, draw_nodules(rng, grid, lungs, chest))

    devices = np.zeros((side, side), np.float32)
    if "devices" in findings:
        devices = draw_devices(rng, side, chest)
    markings = draw_vessels(rng, side, chest) * rng.uniform(0.8, 1.1)
    if "fibrosis" in findings:
        markings += np.clip(np.abs(clouds(rng, side, 70)) * 0.5 - 0.1, 0, 0.6)

    tissue = thickness(rng, grid, chest, lungs, heart, density, markings)
    label = draw_label(rng, side, chest.view)
    return DrawnXray(develop(rng, tissue + 0.25 * devices, label), boxes)


def choose_other_findings(rng: np.random.Generator, image_class: str) -> set[str]:
    """What an image shows beside opacities: one to three of OTHER_FINDINGS if it is not normal."""
    shuffled = rng.permutation(OTHER_FINDINGS)
    count = rng.integers(1, 4)
    if image_class == NOT_NORMAL:
        return set(shuffled[:count])
    if image_class == OPACITY and rng.random() < 0.4:
        return {"devices"}
    return set()


def draw_effusion_height(rng: np.random.Generator, has_effusion: bool) -> float:
    """Height of the fluid in one lung; of two lungs with effusions, one may stay dry."""
    height = rng.uniform(0.12, 0.28)
    is_wet = rng.random() < 0.65
    return height * is_wet * has_effusion


def thickness(
    rng: np.random.Generator,
    grid: PixelGrid,
    chest: Chest,
    lungs: Sequence[np.ndarray],
    heart: np.ndarray,
    density: np.ndarray,
    markings: np.ndarray,
) -> np.ndarray:
    """Tissue that the rays cross, (side, side), about 0 for air to 1. All maps are (side, side)."""
    x, y = grid
    side = len(density)
    from_midline = np.abs(x - chest.centre)

    lung = lungs[0] + lungs[1]
    air = lung * (1 - 0.92 * heart) * (1 - 0.85 * density) * (1 - 0.16 * markings)
    air *= 0.9 + 0.05 * clouds(rng, side, 5)

    belly = soft(y - chest.bottom + 0.05, 0.06)
    wall = soft(chest.outer - from_midline, 0.05)
    trunk = 0.56 + 0.10 * belly + 0.10 * wall
    middle = 0.05 * np.exp(-(((x - chest.centre) / 0.08) ** 2)) + 0.05 * heart
    stomach_x = chest.centre + 0.17
    stomach_y = chest.bottom + 0.07
    bubble = blob(grid, stomach_x, stomach_y, rng.uniform(0.03, 0.07), 0.035, 0.15)
    breast_y = chest.bottom - 0.06
    left_breast = blob(grid, chest.centre - 0.21, breast_y, 0.17, 0.15, 0.06)
    right_breast = blob(grid, chest.centre + 0.21, breast_y, 0.17, 0.15, 0.06)
    breast_density = 0.05 * (chest.sex == "F")

    windpipe = soft(0.018 - from_midline, 0.004) * soft(chest.top + 0.22 - y, 0.02)
    bones = 0.065 * draw_bones(rng, side, chest) + 0.05 * draw_spine(grid, chest) - 0.07 * windpipe
    soft_tissue = trunk + middle + breast_density * (left_breast + right_breast)
    soft_tissue = soft_tissue - 0.12 * bubble - 0.46 * air
    return draw_body(grid, chest) * (soft_tissue + bones)


def develop(rng: np.random.Generator, tissue: np.ndarray, label: np.ndarray) -> np.ndarray:
    """Exposure: a uint8 picture of a thickness map (side, side) and a label in 0..1.

    Contrast, grain and scatter differ from film to film.
    """
    side = len(tissue)
    small = cv2.resize(tissue, (32, 32), interpolation=cv2.INTER_AREA)
    scatter = cv2.resize(cv2.GaussianBlur(small, (0, 0), 4), (side, side))
    film = (0.85 * tissue + 0.15 * scatter) * rng.uniform(1.05, 1.25) + rng.uniform(-0.05, 0.05)
    coarse_grain = 0.008 * clouds(rng, side, side // 4)
    film += coarse_grain + 0.012 * rng.standard_normal((side, side), dtype=np.float32)
    film = np.clip(film, 0, 1) ** rng.uniform(0.85, 1.25)
    return np.round(255 * np.clip(np.maximum(film, 0.95 * label), 0, 1)).astype(np.uint8)
