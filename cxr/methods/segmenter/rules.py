"""From a picture of probabilities to a mask or to nothing: the rules of the five winners.

Probabilities are uint8, 255 for 1. Whether an image gets a mask depends on its own score, on `top`
and on `area`; which mask, on `bottom` alone. So counts of pixels for each `top` and each `bottom`
are all that a search has to know of an image, and the Dice of every combination is a matrix
product.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from cxr.geometry.masks import counts_above, remove_small

FRAME = 1024  # pixels; areas are those in a picture of this side
RULE_AXES = ("head", "top", "area", "bottom")


@dataclass(frozen=True)
class MaskRule:
    """When an image gets a mask, and which.

    None if the image's score is below `head`, or fewer than `area` pixels are above `top`; else
    the pixels above `bottom`, without parts of up to `component` pixels, and nothing if they are
    `total` pixels or fewer.
    """

    head: float = 0.0
    top: float = 0.5
    area: int = 0
    bottom: float = 0.5
    total: int = 0
    component: int = 0


@dataclass(frozen=True)
class RuleGrid:
    """Values to combine; `published` is what the place used, and says what is not searched."""

    published: MaskRule
    head: tuple[float, ...] = (0.0,)
    top: tuple[float, ...] = (0.5,)
    area: tuple[int, ...] = (0,)
    bottom: tuple[float, ...] = (0.5,)

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(len(getattr(self, axis)) for axis in RULE_AXES)

    @property
    def is_searched(self) -> bool:
        """Whether there is more than one combination."""
        return any(count > 1 for count in self.shape)

    def rule(self, index: Sequence[int] | np.ndarray) -> MaskRule:
        """The rule at four integers."""
        values = {}
        for axis, i in zip(RULE_AXES, index, strict=True):
            values[axis] = getattr(self, axis)[i]
        return replace(self.published, **values)

    def index(self, rule: MaskRule) -> tuple[int, ...]:
        """The index of the nearest values."""
        index = []
        for axis in RULE_AXES:
            distance = np.abs(np.array(getattr(self, axis)) - getattr(rule, axis))
            index.append(int(distance.argmin()))
        return tuple(index)

    def only(self, rule: MaskRule) -> RuleGrid:
        """The grid that holds this rule alone."""
        values = {axis: (getattr(rule, axis),) for axis in RULE_AXES}
        return RuleGrid(rule, **values)

    def scaled(self, side: int) -> RuleGrid:
        """The same for pictures of another side than FRAME."""

        def scaled_area(area: int) -> int:
            return max(min(area, 1), round(area * (side / FRAME) ** 2))

        published = replace(
            self.published,
            area=scaled_area(self.published.area),
            total=scaled_area(self.published.total),
            component=scaled_area(self.published.component),
        )
        areas = tuple(scaled_area(area) for area in self.area)
        return replace(self, area=areas, published=published)


def steps(first: float, last: float, step: float) -> tuple[float, ...]:
    """Evenly spaced values, the last one included."""
    count = round((last - first) / step) + 1
    return tuple(round(first + step * k, 4) for k in range(count))


AREAS = tuple(sorted({*range(0, 4001, 200), *range(500, 4001, 500)}))
GRIDS = {
    # Triplet; published for the blend of all models, and searched as widely as any of the five did.
    "first": RuleGrid(
        MaskRule(top=0.7, area=800, bottom=0.3),
        top=steps(0.5, 0.9, 0.05),
        area=AREAS,
        bottom=steps(0.15, 0.6, 0.05),
    ),
    # A classifier, or several that are stacked, decides about the image.
    "second": RuleGrid(
        MaskRule(head=0.65, top=0.0, bottom=0.4),
        head=steps(0.05, 0.95, 0.05),
        top=(0.0,),
        bottom=steps(0.15, 0.6, 0.05),
    ),
    "third": RuleGrid(MaskRule()),  # each pixel by itself
    # Head and triplet; 800 of 768 x 768 pixels.
    "fourth": RuleGrid(
        MaskRule(head=0.4, top=0.8, area=1422, bottom=0.4),
        head=steps(0.1, 0.7, 0.1),
        top=steps(0.5, 0.9, 0.1),
        area=(*range(0, 1201, 400), 1422, *range(1600, 4001, 400)),
        bottom=steps(0.2, 0.6, 0.1),
    ),
    # The highest probability decides.
    "fifth": RuleGrid(
        MaskRule(top=0.5, area=1, bottom=0.2, total=64),
        top=steps(0.3, 0.95, 0.05),
        area=(1,),
        bottom=steps(0.1, 0.6, 0.05),
    ),
}


def uint8_level(threshold: float | tuple[float, ...]) -> np.ndarray:
    """The uint8 value v for which "value > v" is "probability > threshold"."""
    return np.floor(255 * np.asarray(threshold) + 1e-9).astype(np.int64)


def apply_rule(rule: MaskRule, picture: np.ndarray, head: float) -> np.ndarray:
    """Mask (height, width) of a picture of probabilities and the image's own score."""
    empty = np.zeros(picture.shape, np.uint8)
    if head < rule.head:
        return empty
    if np.count_nonzero(picture > uint8_level(rule.top)) < rule.area:
        return empty
    mask = remove_small((picture > uint8_level(rule.bottom)).view(np.uint8), rule.component)
    if np.count_nonzero(mask) <= rule.total:
        return empty
    return mask


def measure_picture(picture: np.ndarray, true_mask: np.ndarray, grid: RuleGrid) -> np.ndarray:
    """Integers (T + 2 B + 1,) of an image with T tops and B bottoms.

    Pixels above each top; pixels of the mask for each bottom, and of these the right ones; pixels
    of the true mask.
    """
    component = grid.published.component
    bottoms = uint8_level(grid.bottom)
    above = counts_above(picture)
    if component:
        sizes, overlaps = _measure_without_small(picture, true_mask, bottoms, component)
    else:
        sizes = above[bottoms]
        overlaps = 0 * bottoms
        if true_mask.any():
            overlaps = counts_above(picture, true_mask)[bottoms]
    tops = above[uint8_level(grid.top)]
    counts = np.concatenate([tops, sizes, overlaps, [np.count_nonzero(true_mask)]])
    return counts.astype(np.int64)


def _measure_without_small(
    picture: np.ndarray, true_mask: np.ndarray, bottoms: np.ndarray, component: int
) -> tuple[np.ndarray, np.ndarray]:
    """Pixels of the mask for each bottom without its small parts, and of these the right ones."""
    sizes: list[int] = []
    overlaps: list[int] = []
    nothing = not (picture > bottoms.min()).any()
    for bottom in bottoms:
        if nothing:
            mask = np.zeros_like(true_mask)
        else:
            mask = remove_small((picture > bottom).view(np.uint8), component)
        sizes.append(int(np.count_nonzero(mask)))
        overlaps.append(int(np.count_nonzero(mask & true_mask)))
    return np.array(sizes), np.array(overlaps)


@dataclass
class MaskGains:
    """What masks are worth: gain (n, B) of giving an image its mask over giving it none, and the
    score (n,) without a mask."""

    gain: np.ndarray
    without: np.ndarray


@dataclass
class MeasuredImages:
    """Many images: counts (n, T + 2 B + 1) of `measure_picture`, own scores `heads` (n,)."""

    grid: RuleGrid
    counts: np.ndarray
    heads: np.ndarray

    def gains(self) -> MaskGains:
        top_count = len(self.grid.top)
        bottom_count = len(self.grid.bottom)
        sizes = self.counts[:, top_count : top_count + bottom_count]
        overlaps = self.counts[:, top_count + bottom_count : -1]
        true_size = self.counts[:, -1:]
        is_empty = (true_size == 0).astype(float)
        no_mask = sizes <= self.grid.published.total
        mask_dice = 2 * overlaps / np.maximum(1, sizes + true_size)
        score = np.where(no_mask, is_empty, mask_dice)
        return MaskGains(gain=score - is_empty, without=is_empty[:, 0])

    def decided(self) -> np.ndarray:
        """(n, H, T, A) whether an image gets a mask."""
        by_head = self.heads[:, None] >= np.array(self.grid.head)
        by_area = self.counts[:, : len(self.grid.top), None] >= np.array(self.grid.area)
        return by_head[:, :, None, None] & by_area[:, None]

    def sums(self) -> np.ndarray:
        """Sum of the images' Dice for every combination, grid.shape."""
        gains = self.gains()
        decided = self.decided().reshape(len(self.counts), -1).astype(float)
        total = gains.without.sum() + decided.T @ gains.gain
        return total.reshape(self.grid.shape)

    def scores(self, rule: MaskRule) -> np.ndarray:
        """Dice (n,) of each image under one rule of the grid."""
        head, top, area, bottom = self.grid.index(rule)
        gains = self.gains()
        return gains.without + self.decided()[:, head, top, area] * gains.gain[:, bottom]

    def has_mask(self, rule: MaskRule) -> np.ndarray:
        """(n,) whether each image gets a mask that is not empty, under one rule of the grid."""
        head, top, area, bottom = self.grid.index(rule)
        sizes = self.counts[:, len(self.grid.top) + bottom]
        return self.decided()[:, head, top, area] & (sizes > self.grid.published.total)

    def take(self, rows: np.ndarray) -> MeasuredImages:
        """Some of the images."""
        return MeasuredImages(self.grid, self.counts[rows], self.heads[rows])


def fit_rule(grid: RuleGrid, sums: np.ndarray) -> MaskRule:
    """The rule of the highest sum (grid.shape), as mean with its neighbours on the grid.

    Among ties it is the one nearest the published. With few images the score jumps from value to
    value, and a lone peak does not return on other images. A `bottom` above a searched `top` is
    left out: the mask would be smaller than what spoke for it.
    """
    smooth = sums.astype(float)
    for axis in range(sums.ndim):
        smooth = _mean_of_neighbours(smooth, axis)
    if len(grid.top) > 1:
        inverted = np.array(grid.bottom) > np.array(grid.top)[:, None, None]
        smooth = np.where(inverted, -np.inf, smooth)
    tolerance = 1e-9 * max(1, np.abs(sums).max())
    tied = np.argwhere(smooth >= smooth.max() - tolerance)
    distance = np.abs(tied - np.array(grid.index(grid.published))).sum(1)
    return grid.rule(tied[distance.argmin()])


def _mean_of_neighbours(values: np.ndarray, axis: int) -> np.ndarray:
    """Each value's mean with the two beside it along an axis; edges are repeated."""
    padding = [(0, 0)] * values.ndim
    padding[axis] = (1, 1)
    padded = np.pad(values, padding, mode="edge")
    shifted = [np.take(padded, range(k, k + values.shape[axis]), axis) for k in range(3)]
    return sum(shifted) / 3  # type: ignore[return-value]


@dataclass(frozen=True)
class FittedRules:
    """`final`: fitted on all images. `held_out`: {unit: fitted on the images of the others}."""

    final: MaskRule
    held_out: dict[Hashable, MaskRule]


def nested_rules(measured: MeasuredImages, units: np.ndarray) -> FittedRules:
    """Rules for all images, and for those of each unit (n,), which had no part in it."""
    sums = {}
    for unit in np.unique(units):
        sums[unit] = measured.take(units == unit).sums()
    total = sum(sums.values(), start=np.zeros(measured.grid.shape))
    held_out = {unit: fit_rule(measured.grid, total - part) for unit, part in sums.items()}
    return FittedRules(fit_rule(measured.grid, total), held_out)
