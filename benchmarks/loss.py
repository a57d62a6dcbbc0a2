"""How much faster are the batched detection losses, forward and backward, than a loop over images?

    python benchmarks/loss.py                                                  8 images, 512 px, P2-P7
    python benchmarks/loss.py --image-size 192 --levels 3-5 --rounds 1         some seconds

To reach: 3 times. Both in fp32, on the same outputs.
"""

import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[1]))

from reference import plain_loss, random_batch, random_samples  # noqa: E402
from timing import Row, arguments, at_least, duration, measure, show  # noqa: E402

from cxr.config import Config  # noqa: E402
from cxr.datasets.rsna.dataset import Rsna  # noqa: E402
from cxr.methods.detector.losses import detection_loss, global_loss  # noqa: E402


def our_loss(outputs, batch, anchors):
    return detection_loss(outputs["scores"], outputs["deltas"], batch) | {
        "global": 0.1 * global_loss(outputs["category"], batch["label"])
    }


def random_outputs(images, anchors):
    generator = torch.Generator().manual_seed(1)
    shapes = {
        "scores": (images, anchors, 1),
        "deltas": (images, anchors, 4),
        "category": (images, 3),
    }
    return {
        name: torch.randn(shape, generator=generator).requires_grad_()
        for name, shape in shapes.items()
    }


def gradients(loss, *inputs):
    """(terms, gradient of each output) of a loss function of (outputs, batch, anchors)."""
    terms = loss(*inputs)
    return terms, torch.autograd.grad(sum(terms.values()), list(inputs[0].values()))


def check(*inputs):
    for ours, plain in zip(gradients(our_loss, *inputs), gradients(plain_loss, *inputs)):
        torch.testing.assert_close(ours, plain, rtol=1e-4, atol=1e-7)


def main():
    args = arguments(__doc__, images=8, image_size=512, levels="2-7", rounds=10)
    config = Config(image_size=args.image_size, levels=args.levels, batch_size=args.images)
    matcher, samples, batch = (
        Rsna().targets(config),
        random_samples(args.images, args.image_size),
        random_batch(config),
    )
    inputs = random_outputs(args.images, len(matcher.anchors)), batch, matcher.anchors
    check(*inputs)
    found = measure(
        {
            "reference": lambda: gradients(plain_loss, *inputs),
            "loss": lambda: gradients(our_loss, *inputs),
            "matching": lambda: [matcher(one["boxes"], one["labels"]) for one in samples],
        },
        args.rounds,
    )
    ours = found["loss"] + found["matching"]
    show(
        f"Loss and backward on {args.images} images with 0 to 4 boxes and {len(matcher.anchors):,} anchors",
        [
            Row("reference, a loop over images", duration(found["reference"]), 1),
            at_least(
                "ours, with the matching that the loader does",
                duration(ours),
                found["reference"] / ours,
                3,
            ),
            Row(
                "ours, in the training step",
                duration(found["loss"]),
                found["reference"] / found["loss"],
            ),
        ],
    )


if __name__ == "__main__":
    main()
