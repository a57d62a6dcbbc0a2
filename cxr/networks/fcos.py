"""FCOS: boxes as distances from points (Tian et al. 2019, arXiv 1904.01355)."""

from __future__ import annotations

import math
from typing import Any, NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cxr.geometry.anchors import make_anchors
from cxr.networks.detector import DetectorNetwork
from cxr.networks.heads import flatten_maps

FIRST_DISTANCE = 4.0  # strides that all four distances begin with: about half of a usual box
LARGEST_EXPONENT = 8.0  # so that no output can overflow


class PointOutputs(NamedTuple):
    """What the box head says of points: distances (..., 4) in network pixels to the left, upper,
    right and lower edge, and centreness (..., 1), logits."""

    distances: Tensor
    centreness: Tensor


class Fcos(DetectorNetwork):
    """Gray images uint8 (B, 1, S, S) -> {'scores', 'distances', 'centreness', 'category'}.

    scores: logits (B, P, K) of box classes; distances (B, P, 4) and centreness (B, P, 1) as in
    PointOutputs; category: logits (B, n) of the image. P points in the order of `make_points`.

    Centre-ness is told by the box head, as the authors found better. `anchors` are squares about
    the points, against which boxes are coded once the network has spoken.
    """

    head_name = "fcos"
    per_cell = 1
    box_numbers = 5

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        # Of each level, so that all levels share one head though their boxes differ in size.
        self.level_scales = nn.Parameter(torch.ones(len(self.levels)))
        last = cast(nn.Conv2d, self.box_head[-1])
        with torch.no_grad():
            cast(Tensor, last.bias)[:4] = math.log(FIRST_DISTANCE)

    def make_locations(self) -> Tensor:
        return make_point_squares(self.image_size, self.levels)

    def forward(
        self,
        images: Tensor,
        selected: tuple[Tensor, Tensor] | None = None,
        headers: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """With `selected`, image (n,) and point (n,) on the CPU, 'distances' (n, 4) and
        'centreness' (n, 1) are theirs. headers: see `add_headers`."""
        outputs, maps = self.forward_scores(images)
        if selected is None:
            points = self.read_maps(maps)
        else:
            image, point = selected
            numbers = self.box_outputs_at(maps, image, point)
            level = point_levels(self.image_size, self.levels)[point].to(numbers.device)
            scale = self.level_scales[level - self.levels[0], None]
            points = read_numbers(numbers, scale, (2.0**level)[:, None])
        return self.add_headers(outputs | points._asdict(), headers)

    def read_maps(self, maps: list[Tensor]) -> PointOutputs:
        """Outputs of all points; the maps may be those of an image of another size."""
        distances = []
        centreness = []
        for number, level in enumerate(self.levels):
            numbers = flatten_maps([self.box_head(maps[number])], self.box_numbers)
            of_level = read_numbers(numbers, self.level_scales[number], 2.0**level)
            distances.append(of_level.distances)
            centreness.append(of_level.centreness)
        return PointOutputs(torch.cat(distances, 1), torch.cat(centreness, 1))


def read_numbers(numbers: Tensor, scale: Tensor, stride: Tensor | float) -> PointOutputs:
    """Outputs of points of which the box head says numbers (..., 5)."""
    # At most the largest one: a clamp that OpenCV 4 reads from an ONNX file.
    exponent = LARGEST_EXPONENT - F.relu(LARGEST_EXPONENT - scale * numbers[..., :4])
    return PointOutputs(stride * exponent.exp(), numbers[..., 4:])


def make_point_squares(image_size: int, levels: tuple[int, ...]) -> Tensor:
    """Squares (P, 4) of four strides about the points, which are at (i + 0.5) * 2^level."""
    return make_anchors(image_size, levels, torch.ones(1, 2))


def point_levels(image_size: int, levels: tuple[int, ...]) -> Tensor:
    """Level (P,) of each point."""
    counts = [(image_size // 2**level) ** 2 for level in levels]
    return torch.tensor(levels).repeat_interleave(torch.tensor(counts))
