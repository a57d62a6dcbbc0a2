"""How much faster are the batched detection losses, forward and backward, than a loop over images?

    python benchmarks/loss.py                                               8 images, 512 px, P2-P7
    python benchmarks/loss.py --image-size 192 --levels 3-5 --rounds 1      some seconds

To reach: 3 times. Both in fp32, on the same outputs.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parents[1]))

from reference import RSNA, Outputs, plain_loss, random_batch, random_samples
from timing import Row, arguments, at_least, duration, measure, show

from cxr.data.batch import Batch, Sample, TargetMaker
from cxr.geometry.anchors import make_anchors, parse_levels
from cxr.methods.detector.losses import detection_loss, global_loss
from cxr.settings import Settings

Loss = Callable[[Outputs, Batch, Tensor], dict[str, Tensor]]  # of outputs, batch and anchors


def anchors_of(settings: Settings) -> Tensor:
    """Anchors (A, 4) of a network with these settings."""
    return make_anchors(settings.training.image_size, parse_levels(settings.method.levels))


def our_loss(outputs: Outputs, batch: Batch, anchors: Tensor) -> dict[str, Tensor]:
    """Without looking at the anchors, which the loader has matched."""
    del anchors
    terms = detection_loss(outputs["scores"], outputs["deltas"], batch)
    terms["global"] = 0.1 * global_loss(outputs["category"], batch.image_labels)
    return terms


def random_outputs(images: int, anchors: int) -> Outputs:
    generator = torch.Generator().manual_seed(1)
    shapes = {
        "scores": (images, anchors, 1),
        "deltas": (images, anchors, 4),
        "category": (images, 3),
    }
    outputs = {}
    for name, shape in shapes.items():
        outputs[name] = torch.randn(shape, generator=generator).requires_grad_()
    return outputs


class LossAndGradients(NamedTuple):
    """Terms of a loss, and the gradient of each output."""

    terms: dict[str, Tensor]
    gradients: tuple[Tensor, ...]


def differentiate(loss: Loss, outputs: Outputs, batch: Batch, anchors: Tensor) -> LossAndGradients:
    terms = loss(outputs, batch, anchors)
    total = torch.stack(list(terms.values())).sum()
    return LossAndGradients(terms, torch.autograd.grad(total, list(outputs.values())))


def check(outputs: Outputs, batch: Batch, anchors: Tensor) -> None:
    ours = differentiate(our_loss, outputs, batch, anchors)
    plain = differentiate(plain_loss, outputs, batch, anchors)
    torch.testing.assert_close(ours.terms, plain.terms, rtol=1e-4, atol=1e-7)
    torch.testing.assert_close(ours.gradients, plain.gradients, rtol=1e-4, atol=1e-7)


def match_all(make_target: TargetMaker, samples: Sequence[Sample]) -> None:
    for sample in samples:
        make_target(sample.boxes, sample.labels)


def main() -> None:
    args = arguments(__doc__, images=8, image_size=512, levels="2-7", rounds=10)
    settings = RSNA.make_settings(
        {"image_size": args.image_size, "levels": args.levels, "batch_size": args.images}
    )
    make_target = RSNA.method.make_target(settings)
    assert make_target is not None  # a detector has one
    samples = random_samples(args.images, args.image_size)
    batch = random_batch(settings)
    anchors = anchors_of(settings)
    outputs = random_outputs(args.images, len(anchors))
    check(outputs, batch, anchors)
    seconds = measure(
        {
            "reference": lambda: differentiate(plain_loss, outputs, batch, anchors),
            "loss": lambda: differentiate(our_loss, outputs, batch, anchors),
            "matching": lambda: match_all(make_target, samples),
        },
        args.rounds,
    )
    plain = seconds["reference"]
    ours = seconds["loss"] + seconds["matching"]
    show(
        f"Loss and backward on {args.images} images with 0 to 4 boxes and {len(anchors):,} anchors",
        [
            Row("reference, a loop over images", duration(plain), 1),
            at_least(
                "ours, with the matching that the loader does", duration(ours), plain / ours, 3
            ),
            Row("ours, in the training step", duration(seconds["loss"]), plain / seconds["loss"]),
        ],
    )


if __name__ == "__main__":
    main()
