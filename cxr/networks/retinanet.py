"""RetinaNet with levels from P2 and a head for the whole image (Gabruseva et al. 2020)."""

from __future__ import annotations

from torch import Tensor

from cxr.geometry.anchors import PER_CELL, make_anchors
from cxr.networks.detector import DetectorNetwork


class RetinaNet(DetectorNetwork):
    """Gray images uint8 (B, 1, S, S) -> {'scores', 'deltas', 'category'}.

    scores: logits (B, A, K) of box classes; deltas (B, A, 4) as `encode_boxes` defines them;
    category: logits (B, n) of the image. A anchors in the order of `make_anchors`.
    """

    head_name = "retinanet"
    per_cell = PER_CELL
    box_numbers = 4

    def make_locations(self) -> Tensor:
        return make_anchors(self.image_size, self.levels)

    def forward(
        self,
        images: Tensor,
        selected: tuple[Tensor, Tensor] | None = None,
        headers: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """With `selected`, image (n,) and anchor (n,) on the CPU, 'deltas' are theirs, (n, 4).
        headers: see `add_headers`."""
        outputs, maps = self.forward_scores(images)
        if selected is None:
            outputs["deltas"] = self.box_outputs(maps)
        else:
            image, anchor = selected
            outputs["deltas"] = self.deltas_at(maps, image, anchor)
        return self.add_headers(outputs, headers)

    def deltas_at(self, maps: list[Tensor], image: Tensor, anchor: Tensor) -> Tensor:
        """Deltas (n, 4) of anchors (n,) of images (n,), both on the CPU, as from the whole maps."""
        return self.box_outputs_at(maps, image, anchor)
