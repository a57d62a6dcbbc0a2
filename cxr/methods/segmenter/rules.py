"""From a picture of probabilities to a mask or to nothing: the rules of the five winners, and their search.

Probabilities are uint8, 255 for 1. Whether an image gets a mask depends on its own score, on `top` and on `area`; which
mask, on `bottom` alone. So counts of pixels for each `top` and each `bottom` are all that a search has to know of an
image, and the Dice of every combination is a matrix product.
"""

from dataclasses import dataclass, replace

import numpy as np

from cxr.geometry.masks import counts_above, remove_small

FRAME = 1024  # pixels; areas are those in a picture of this side
AXES = ("head", "top", "area", "bottom")


@dataclass(frozen=True)
class Rule:
    """No mask if the image's score is below `head`, or fewer than `area` pixels are above `top`; else the pixels above
    `bottom`, without parts of up to `component` pixels, and nothing if they are `total` pixels or fewer."""

    head: float = 0.0
    top: float = 0.5
    area: int = 0
    bottom: float = 0.5
    total: int = 0
    component: int = 0


@dataclass(frozen=True)
class Grid:
    """Values to combine; `published` is what the place used, and says what is not searched."""

    published: Rule
    head: tuple = (0.0,)
    top: tuple = (0.5,)
    area: tuple = (0,)
    bottom: tuple = (0.5,)

    @property
    def shape(self):
        return tuple(len(getattr(self, axis)) for axis in AXES)

    def rule(self, index):
        return replace(
            self.published,
            **{axis: getattr(self, axis)[i] for axis, i in zip(AXES, index, strict=True)},
        )

    def index(self, rule):
        """The index of the nearest values."""
        return tuple(
            int(np.abs(np.array(getattr(self, axis)) - getattr(rule, axis)).argmin())
            for axis in AXES
        )

    def only(self, rule):
        """The grid that holds this rule alone."""
        return Grid(rule, **{axis: (getattr(rule, axis),) for axis in AXES})

    def scaled(self, side):
        """The same for pictures of another side than FRAME."""

        def size(area):
            return max(min(area, 1), round(area * (side / FRAME) ** 2))

        published = replace(
            self.published,
            **{
                name: size(getattr(self.published, name)) for name in ("area", "total", "component")
            },
        )
        return replace(self, area=tuple(map(size, self.area)), published=published)


def steps(first, last, step):
    return tuple(round(first + step * k, 4) for k in range(round((last - first) / step) + 1))


AREAS = tuple(sorted({*range(0, 4001, 200), *range(500, 4001, 500)}))
GRIDS = {
    # Triplet; published for the blend of all models, and searched as widely as any of the five did.
    "first": Grid(
        Rule(top=0.7, area=800, bottom=0.3),
        top=steps(0.5, 0.9, 0.05),
        area=AREAS,
        bottom=steps(0.15, 0.6, 0.05),
    ),
    # A classifier, or several that are stacked, decides about the image.
    "second": Grid(
        Rule(head=0.65, top=0.0, bottom=0.4),
        head=steps(0.05, 0.95, 0.05),
        top=(0.0,),
        bottom=steps(0.15, 0.6, 0.05),
    ),
    "third": Grid(Rule()),  # each pixel by itself
    # Head and triplet; 800 of 768 x 768 pixels.
    "fourth": Grid(
        Rule(head=0.4, top=0.8, area=1422, bottom=0.4),
        head=steps(0.1, 0.7, 0.1),
        top=steps(0.5, 0.9, 0.1),
        area=(*range(0, 1201, 400), 1422, *range(1600, 4001, 400)),
        bottom=steps(0.2, 0.6, 0.1),
    ),
    # The highest probability decides.
    "fifth": Grid(
        Rule(top=0.5, area=1, bottom=0.2, total=64),
        top=steps(0.3, 0.95, 0.05),
        area=(1,),
        bottom=steps(0.1, 0.6, 0.05),
    ),
}


def level(threshold):
    """The uint8 value v for which "value > v" is "probability > threshold"."""
    return np.floor(255 * np.asarray(threshold) + 1e-9).astype(np.int64)


def apply(rule, picture, head):
    """Mask (height, width) of a picture of probabilities and the image's own score."""
    empty = np.zeros(picture.shape, np.uint8)
    if head < rule.head or np.count_nonzero(picture > level(rule.top)) < rule.area:
        return empty
    mask = remove_small((picture > level(rule.bottom)).view(np.uint8), rule.component)
    return mask if np.count_nonzero(mask) > rule.total else empty


def measure(picture, true, grid):
    """Integers (T + 2 B + 1,) of an image: pixels above each top; of the mask for each bottom, and of these the right
    ones; of the true mask."""
    component, bottoms = grid.published.component, level(grid.bottom)
    above = counts_above(picture)
    if component:
        masks = (
            [remove_small((picture > bottom).view(np.uint8), component) for bottom in bottoms]
            if above[bottoms.min()]
            else [np.zeros_like(true)] * len(bottoms)
        )
        shown = [np.count_nonzero(mask) for mask in masks]
        common = [np.count_nonzero(mask & true) for mask in masks]
    else:
        shown, common = (
            above[bottoms],
            counts_above(picture, true)[bottoms] if true.any() else 0 * bottoms,
        )
    return np.concatenate([above[level(grid.top)], shown, common, [np.count_nonzero(true)]]).astype(
        np.int64
    )


@dataclass
class Measured:
    """Many images: `counts` (n, T + 2 B + 1) as `measure` gives them, `heads` (n,) their own scores."""

    grid: Grid
    counts: np.ndarray
    heads: np.ndarray

    def gains(self):
        """(gain (n, B) of giving an image its mask over giving it none, score (n,) without a mask)."""
        tops, bottoms = len(self.grid.top), len(self.grid.bottom)
        shown, common = self.counts[:, tops:-1].reshape(-1, 2, bottoms).swapaxes(0, 1)
        true = self.counts[:, -1:]
        empty, nothing = (true == 0).astype(float), shown <= self.grid.published.total
        return np.where(nothing, empty, 2 * common / np.maximum(1, shown + true)) - empty, empty[
            :, 0
        ]

    def decided(self):
        """(n, H, T, A) whether an image gets a mask."""
        by_head = self.heads[:, None] >= np.array(self.grid.head)
        by_area = self.counts[:, : len(self.grid.top), None] >= np.array(self.grid.area)
        return by_head[:, :, None, None] & by_area[:, None]

    def sums(self):
        """Sum of the images' Dice for every combination, grid.shape."""
        gain, base = self.gains()
        decided = self.decided()
        total = base.sum() + decided.reshape(len(gain), -1).T.astype(float) @ gain
        return total.reshape(self.grid.shape)

    def scores(self, rule):
        """Dice (n,) of each image under one rule of the grid."""
        h, t, a, b = self.grid.index(rule)
        gain, base = self.gains()
        return base + self.decided()[:, h, t, a] * gain[:, b]

    def given(self, rule):
        """(n,) whether each image gets a mask under one rule of the grid: so decided, and the mask not empty."""
        h, t, a, b = self.grid.index(rule)
        return self.decided()[:, h, t, a] & (
            self.counts[:, len(self.grid.top) + b] > self.grid.published.total
        )

    def part(self, rows):
        return Measured(self.grid, self.counts[rows], self.heads[rows])


def fit(grid, sums):
    """The rule of the highest sum, as mean with its neighbours on the grid; among ties the one nearest the published.

    With few images the score jumps from value to value, and a lone peak does not return on other images. A `bottom`
    above a searched `top` is left out: the mask would be smaller than what spoke for it.
    """
    smooth = sums.astype(float)
    for axis in range(sums.ndim):
        padded = np.pad(
            smooth, [(1, 1) if k == axis else (0, 0) for k in range(sums.ndim)], mode="edge"
        )
        smooth = sum(np.take(padded, range(k, k + sums.shape[axis]), axis) for k in range(3)) / 3
    if len(grid.top) > 1:
        smooth = np.where(
            np.array(grid.bottom) > np.array(grid.top)[:, None, None], -np.inf, smooth
        )
    tied = np.argwhere(smooth >= smooth.max() - 1e-9 * max(1, np.abs(sums).max()))
    away = np.abs(tied - np.array(grid.index(grid.published))).sum(1)
    return grid.rule(tied[away.argmin()])


def nested(measured, units):
    """(rule fitted on all images, {unit: rule fitted on the images of the other units}); units (n,)."""
    sums = {unit: measured.part(units == unit).sums() for unit in np.unique(units)}
    total = sum(sums.values())
    return fit(measured.grid, total), {
        unit: fit(measured.grid, total - own) for unit, own in sums.items()
    }
