"""Chest X-rays that are drawn, not taken, with opacities whose boxes are known.

A map of the tissue that the rays cross (body, air in the lungs, heart, bones, vessels, findings), shown brighter where
more tissue lies. Geometry is in fractions of the frame: x to the right, y down, both 0 to 1.
"""

from dataclasses import dataclass

import cv2
import numpy as np

NORMAL, NOT_NORMAL, OPACITY = "Normal", "No Lung Opacity / Not Normal", "Lung Opacity"
BOX_COUNTS = (
    np.array([2614, 3266, 119, 13]) / 6012
)  # positives with 1, 2, 3, 4 boxes in the RSNA training set
BOX_EDGE = 0.4  # a box surrounds what is denser than this; full density is 1


@dataclass(frozen=True)
class Chest:
    """One patient's build. `outer` is the half width of the rib cage, `heart` the half width of the heart."""

    view: str
    sex: str
    age: int
    centre: float
    top: float
    bottom: float
    outer: float
    heart: float


def draw_chest(rng, view, sex, age):
    """AP: patient lying, breath not held, tube near: shorter lungs and a bigger heart."""
    near = view == "AP"
    return Chest(
        view,
        sex,
        age,
        centre=0.5 + rng.normal(0, 0.02),
        top=rng.uniform(0.09, 0.15) + 0.03 * near,
        bottom=rng.uniform(0.70, 0.78) - rng.uniform(0.02, 0.09) * near,
        outer=rng.uniform(0.33, 0.39),
        heart=rng.uniform(0.115, 0.135) + 0.03 * near + 0.0003 * (age - 50),
    )


def frame_grid(side):
    """x as (1, side), y as (side, 1), float32 pixel centres in 0..1."""
    line = (np.arange(side, dtype=np.float32) + 0.5) / side
    return line[None, :], line[:, None]


def soft(distance, edge):
    """1 well inside (positive distance), 0 well outside, smooth over about `edge`."""
    return 1 / (1 + np.exp(np.clip(-distance / edge, -30, 30)))


def blob(grid, x, y, half_width, half_height, edge=0.08):
    return soft(1 - np.hypot((grid[0] - x) / half_width, (grid[1] - y) / half_height), edge)


def clouds(rng, side, cells):
    """Smooth noise (side, side), mean 0 and deviation about 1, with structures of side / cells pixels."""
    coarse = rng.standard_normal((cells + 2, cells + 2)).astype(np.float32)
    return cv2.resize(coarse, (side, side), interpolation=cv2.INTER_CUBIC)


def strokes(side, lines, width, blur):
    """Smooth polylines (points (n, 2) in 0..1), `width` in fractions of the frame, as (side, side) float32 in 0..1."""
    canvas = np.zeros((side, side), np.uint8)
    for points in lines:
        fixed_point = np.round(np.asarray(points) * side * 16).astype(np.int32)  # 4 fractional bits
        cv2.polylines(
            canvas, [fixed_point], False, 255, max(1, round(width * side)), cv2.LINE_AA, 4
        )
    return cv2.GaussianBlur(canvas.astype(np.float32) / 255, (0, 0), max(blur * side, 0.3))


def cage_width(chest, y):
    """Half width of the rib cage at height y: round at the apex, widest at the diaphragm."""
    t = np.clip((y - chest.top) / (chest.bottom - chest.top), 0, 1)
    return 0.06 + (chest.outer - 0.06) * (1 - (1 - t) ** 2.4) ** 0.62


def draw_lung(grid, chest, sign, blunt=0.0):
    """The lung left (sign -1) or right (+1) of the midline, (side, side) in 0..1. `blunt`: height of an effusion."""
    x, y = grid
    u, t = sign * (x - chest.centre), np.clip((y - chest.top) / (chest.bottom - chest.top), 0, 1)
    dome = ((u - 0.45 * chest.outer) / (0.55 * chest.outer)) ** 2
    floor = chest.bottom + 0.02 * (sign > 0) - 0.06 * (1 - dome)
    if blunt:
        meniscus = chest.bottom - blunt * (0.45 + 0.55 * np.clip(u / chest.outer, 0, 1) ** 3)
        floor = np.minimum(floor, meniscus)
    inner = 0.048 + 0.012 * np.sin(14 * (y - chest.top)) + 0.02 * t**3
    return soft(cage_width(chest, y) - u, 0.004) * soft(u - inner, 0.008) * soft(floor - y, 0.005)


def draw_body(grid, chest):
    """Neck, shoulders, trunk. AP shows the arms at the sides and fills the frame."""
    x, y = grid
    trunk = chest.outer + (0.16 if chest.view == "AP" else 0.07)
    levels = [0, chest.top - 0.06, chest.top + 0.05, chest.top + 0.16, 0.5, 1]
    profile = np.interp(y[:, 0], levels, [0.11, 0.13, 0.42, 0.55, trunk, trunk + 0.02]).astype(
        np.float32
    )
    half = cv2.GaussianBlur(profile[:, None], (0, 0), 0.02 * len(profile))
    return soft(half - np.abs(x - chest.centre), 0.008)


def draw_heart(grid, chest, scale=1.0):
    """Heart, great vessels and the aortic knob, which grows with age."""
    width, c, base = chest.heart * scale, chest.centre, chest.bottom - 0.08
    tilted = grid[0] - 0.35 * (grid[1] - base), grid[1]
    left = blob(tilted, c + 0.42 * width, base, width, 0.15 + 0.3 * width, 0.06)
    right = blob(grid, c - 0.1 * width, base, 0.75 * width, 0.16, 0.08)
    vessels = blob(grid, c + 0.01, chest.top + 0.25, 0.068, 0.25, 0.12)
    knob = blob(grid, c + 0.045, chest.top + 0.17, 0.02 + 0.0004 * chest.age, 0.042, 0.12)
    return 1 - (1 - left) * (1 - right) * (1 - vessels) * (1 - knob)


def draw_bones(rng, side, chest):
    """Ribs (back ribs fall outwards, front ribs fall inwards), clavicles, spine; paler with age."""
    u = np.linspace(0.03, 1, 24)[:, None]
    back, front, height = [], [], chest.bottom - chest.top
    for sign in (-1, 1):
        for start in chest.top + height * (np.arange(9) * 0.112 + 0.02 + rng.normal(0, 0.004, 9)):
            width = cage_width(chest, start + 0.08)
            fall = 0.10 * u**2.2 - 0.05 * np.sin(np.pi * u) * u
            back.append(np.hstack([chest.centre + sign * u * width, start + fall]))
            front.append(
                np.hstack(
                    [chest.centre + sign * (1 - 0.62 * u) * width, start + 0.10 + 0.13 * u**1.2]
                )
            )
    rise = rng.uniform(-0.02, 0.02)
    curve = chest.top + 0.075 - 0.06 * u + 0.018 * np.sin(2 * np.pi * u)
    clavicles = [
        np.hstack([chest.centre + sign * (0.03 + 0.33 * u), curve + sign * rise * u])
        for sign in (-1, 1)
    ]
    edges = strokes(side, back, 0.028, 0.002) - 0.5 * strokes(side, back, 0.016, 0.003)
    bones = (
        1.15 * edges
        + 0.4 * strokes(side, front, 0.022, 0.003)
        + 0.9 * strokes(side, clavicles, 0.026, 0.003)
    )
    return bones * (1.15 - 0.005 * chest.age)


def draw_spine(grid, chest):
    x, y = grid
    column = soft(0.034 - np.abs(x - chest.centre), 0.004)
    return (
        column
        * (0.75 + 0.25 * np.sin(2 * np.pi * y / 0.062))
        * (1.1 - 0.4 * soft(y - chest.bottom + 0.15, 0.05))
    )


def draw_vessels(rng, side, chest):
    """Branches that leave each hilum, thinner outwards, and the hila themselves."""
    image, steps = np.zeros((side, side), np.float32), np.linspace(0, 1, 7)
    middle = chest.top + 0.52 * (chest.bottom - chest.top)
    for width, reach, count in ((0.009, 0.12, 9), (0.005, 0.2, 14), (0.0025, 0.3, 22)):
        lines = []
        for sign in (-1, 1):
            angle = rng.uniform(-1.25, 1.4, (count, 1)) + np.cumsum(
                rng.normal(0, 0.12, (count, 7)), axis=1
            )
            along = reach * rng.uniform(0.6, 1.1, (count, 1)) * steps
            x = chest.centre + sign * (0.075 + along * np.cos(angle))
            lines += list(np.stack([x, middle + 0.02 * sign + along * np.sin(angle) * 1.2], axis=2))
        image += strokes(side, lines, width, 0.0025)
    return np.minimum(image, 1.5)


def draw_consolidation(rng, grid, lung, sign, chest, part):
    """One opacity in a whole lung (part None) or its upper (0) or lower (1) half.

    Returns its density (side, side) in 0..1 and the box x1 y1 x2 y2 around it in 0..1.
    """
    height, side = chest.bottom - chest.top, lung.shape[0]
    low, high = (0.35, 0.8) if part is None else ((0.22, 0.3), (0.72, 0.82))[part]
    half_h = np.clip(
        rng.lognormal(np.log(0.145), 0.35), 0.06, height * (0.4 if part is None else 0.13)
    )
    half_w = np.clip(rng.lognormal(np.log(0.102), 0.2), 0.06, 0.16)
    y = min(chest.top + height * rng.uniform(low, high), chest.bottom - 0.04 - 0.6 * half_h)
    x = chest.centre + sign * (0.03 + 0.55 * cage_width(chest, y) + rng.normal(0, 0.015))
    ragged = 0.12 * clouds(rng, side, 12) + 0.05 * clouds(rng, side, 40)
    patch = soft(1 - np.hypot((grid[0] - x) / half_w, (grid[1] - y) / half_h) + ragged, 0.14) * lung
    patchy = np.clip(0.85 + 0.13 * clouds(rng, side, 25) + 0.06 * clouds(rng, side, 60), 0, 1)
    return patch * patchy, surround(patch > BOX_EDGE)


def surround(mask):
    """Box x1 y1 x2 y2 in 0..1 around the largest connected part of a mask."""
    _, _, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8))
    x, y, width, height, _ = stats[1 + np.argmax(stats[1:, cv2.CC_STAT_AREA])]
    return np.array([x, y, x + width, y + height]) / len(mask)


def draw_opacities(rng, grid, lungs, chest):
    """Opacities of a positive image, on the two sides in turn: density (side, side) and boxes (n, 4) in 0..1."""
    sides = (rng.integers(2) + np.arange(1 + rng.choice(4, p=BOX_COUNTS))) % 2
    density, boxes = np.zeros_like(lungs[0]), []
    for k, which in enumerate(sides):
        part = k // 2 if np.sum(sides == which) > 1 else None
        patch, box = draw_consolidation(rng, grid, lungs[which], 2 * which - 1, chest, part)
        density = np.maximum(density, patch * rng.uniform(0.65, 0.95))
        boxes.append(box)
    return density, np.array(boxes)


def draw_nodules(rng, grid, lungs, chest):
    """One mass or a few nodules: round and sharply bounded, unlike an opacity. Density (side, side)."""
    density = np.zeros_like(lungs[0])
    for radius in (
        rng.uniform(0.03, 0.055, 1)
        if rng.random() < 0.5
        else rng.uniform(0.012, 0.025, rng.integers(3, 8))
    ):
        which, y = rng.integers(2), rng.uniform(chest.top + 0.12, chest.bottom - 0.12)
        x = chest.centre + (2 * which - 1) * rng.uniform(0.1, cage_width(chest, y) - 0.04)
        density = np.maximum(density, blob(grid, x, y, radius, radius, 0.08) * lungs[which])
    return density


def draw_devices(rng, side, chest):
    """Leads, central line, tubes, pacemaker or wire cerclage: thin or compact and brighter than any tissue."""
    u, sign = np.linspace(0, 1, 20)[:, None], rng.choice([-1, 1])
    c, low = chest.centre, chest.bottom
    line = np.hstack([c + sign * (0.3 * (1 - u) ** 2 + 0.03), chest.top + 0.02 + 0.4 * u**1.5])
    tube = np.hstack([c + 0.012 * np.sin(4 * u), 0.3 * u])
    leads = [
        np.hstack(
            [
                c + rng.uniform(-0.4, 0.4) + rng.uniform(-0.3, 0.3) * u + 0.05 * np.sin(5 * u),
                rng.uniform(0.1, low) + rng.uniform(-0.3, 0.5) * u,
            ]
        )
        for _ in range(rng.integers(0, 3))
    ]
    image = strokes(
        side, [line] * (rng.random() < 0.7) + [tube] * (rng.random() < 0.5) + leads, 0.003, 0.001
    )
    if rng.random() < 0.35:
        x, y, grid = c + 0.25, chest.top + 0.13, frame_grid(side)
        case = soft(1 - np.hypot((grid[0] - x) / 0.055, (grid[1] - y) / 0.045) ** 3, 0.05)
        wire = np.hstack([x - 0.24 * u, y - 0.03 * np.sin(3 * u) + 0.42 * u**2])
        image = np.maximum(image, np.maximum(case * 1.3, strokes(side, [wire], 0.004, 0.0012)))
    return image


def draw_label(rng, side, view):
    """Side marker, and the words that bedside pictures carry."""
    canvas = np.zeros((side, side), np.uint8)
    scale, where = (
        side / 900,
        (int(side * rng.uniform(0.82, 0.9)), int(side * rng.uniform(0.05, 0.1))),
    )
    cv2.putText(
        canvas,
        "L",
        where,
        cv2.FONT_HERSHEY_SIMPLEX,
        1.6 * scale,
        255,
        max(1, side // 170),
        cv2.LINE_AA,
    )
    if view == "AP" and rng.random() < 0.6:
        below = (where[0] - int(0.07 * side), where[1] + int(0.045 * side))
        thin = max(1, side // 400)
        cv2.putText(
            canvas, "PORTABLE", below, cv2.FONT_HERSHEY_SIMPLEX, 0.7 * scale, 255, thin, cv2.LINE_AA
        )
    return canvas.astype(np.float32) / 255


def draw_xray(rng, chest, kind, side):
    """uint8 image (side, side) of class `kind`, and its boxes (n, 4) as x1 y1 x2 y2 in 0..1, none unless an opacity."""
    grid, boxes = frame_grid(side), np.zeros((0, 4))
    sick = rng.permutation(["heart", "effusion", "nodules", "devices", "fibrosis"])[
        : rng.integers(1, 4)
    ]
    findings = (
        set(sick)
        if kind == NOT_NORMAL
        else {"devices"}
        if kind == OPACITY and rng.random() < 0.4
        else set()
    )
    blunt = [
        rng.uniform(0.12, 0.28) * (rng.random() < 0.65) * ("effusion" in findings) for _ in range(2)
    ]
    lungs = [draw_lung(grid, chest, sign, height) for sign, height in zip((-1, 1), blunt)]
    heart = draw_heart(grid, chest, rng.uniform(1.35, 1.7) if "heart" in findings else 1.0)
    density = np.zeros((side, side), np.float32)
    if kind == OPACITY:
        density, boxes = draw_opacities(
            rng, grid, [lung * (1 - 0.8 * heart) for lung in lungs], chest
        )
    if "nodules" in findings:
        density = np.maximum(density, draw_nodules(rng, grid, lungs, chest))
    devices = draw_devices(rng, side, chest) if "devices" in findings else 0
    markings = draw_vessels(rng, side, chest) * rng.uniform(0.8, 1.1)
    if "fibrosis" in findings:
        markings += np.clip(np.abs(clouds(rng, side, 70)) * 0.5 - 0.1, 0, 0.6)
    tissue = thickness(rng, grid, chest, lungs, heart, density, markings)
    return develop(rng, tissue + 0.25 * devices, draw_label(rng, side, chest.view)), boxes


def thickness(rng, grid, chest, lungs, heart, density, markings):
    """Tissue that the rays cross, (side, side), about 0 for air to 1."""
    x, y = grid
    side, lung, body = len(density), lungs[0] + lungs[1], draw_body(grid, chest)
    air = lung * (1 - 0.92 * heart) * (1 - 0.85 * density) * (1 - 0.16 * markings)
    air *= 0.9 + 0.05 * clouds(rng, side, 5)
    belly, wall = (
        soft(y - chest.bottom + 0.05, 0.06),
        soft(chest.outer - np.abs(x - chest.centre), 0.05),
    )
    trunk = 0.56 + 0.10 * belly + 0.10 * wall
    middle = 0.05 * np.exp(-(((x - chest.centre) / 0.08) ** 2)) + 0.05 * heart
    stomach = 0.12 * blob(
        grid, chest.centre + 0.17, chest.bottom + 0.07, rng.uniform(0.03, 0.07), 0.035, 0.15
    )
    breasts = sum(
        blob(grid, chest.centre + s * 0.21, chest.bottom - 0.06, 0.17, 0.15, 0.06) for s in (-1, 1)
    )
    trachea = (
        0.07 * soft(0.018 - np.abs(x - chest.centre), 0.004) * soft(chest.top + 0.22 - y, 0.02)
    )
    bones = 0.065 * draw_bones(rng, side, chest) + 0.05 * draw_spine(grid, chest) - trachea
    return body * (
        trunk + middle + 0.05 * (chest.sex == "F") * breasts - stomach - 0.46 * air + bones
    )


def develop(rng, tissue, label):
    """Exposure: uint8 picture of a thickness map, with contrast, grain and scatter that differ from film to film."""
    side = len(tissue)
    coarse = cv2.GaussianBlur(cv2.resize(tissue, (32, 32), interpolation=cv2.INTER_AREA), (0, 0), 4)
    scatter = cv2.resize(coarse, (side, side))
    film = (0.85 * tissue + 0.15 * scatter) * rng.uniform(1.05, 1.25) + rng.uniform(-0.05, 0.05)
    film += 0.008 * clouds(rng, side, side // 4) + 0.012 * rng.standard_normal(
        (side, side), dtype=np.float32
    )
    film = np.clip(film, 0, 1) ** rng.uniform(0.85, 1.25)
    return np.round(255 * np.clip(np.maximum(film, 0.95 * label), 0, 1)).astype(np.uint8)
