"""How long does a prediction of one image take, from its pixels to merged boxes, with the flipped view?

    python benchmarks/prediction.py                                     two models of the paper's network, minutes
    python benchmarks/prediction.py --encoder resnet18 --image-size 192 --levels 3-5 --rounds 1  seconds

Ours as 04_predict.py and step 05 do it: batches, channels-last, bf16 where the processor has it, only the anchors that
can become boxes merged; the reference image by image in fp32 and NCHW, merging all raw outputs in numpy.
To reach: 4 times. The limit is the operations of the forward passes at the rate of a large matrix product.
"""

import sys
from copy import deepcopy
from pathlib import Path

import numpy as np
import pandas as pd
import torch

sys.path.insert(0, str(Path(__file__).parents[1]))

from reference import FRAME, enliven, network_config, plain_predict, random_batch  # noqa: E402
from timing import against_limit, arguments, matmul_rate, show  # noqa: E402
from training_step import CPU, NETWORK  # noqa: E402

from cxr.datasets.rsna.dataset import Rsna  # noqa: E402
from cxr.inference.run import VIEWS, predict_batch  # noqa: E402
from cxr.methods.detector.records import Params, detect  # noqa: E402
from cxr.system.device import FORMATS, choose_precision  # noqa: E402

PARAMS = Params(
    percentile_shrink=1.6, threshold=0.0
)  # the 2nd place's sizes, and all boxes above the score floor


def random_models(config, count, images, device=CPU):
    """`count` networks with different random weights, in evaluation mode."""
    torch.manual_seed(0)
    return [enliven(Rsna().build_model(config).to(device), images.to(device)) for _ in range(count)]


def our_prediction(models, images, precision):
    """[(boxes (k, 4) in 1024 px, scores (k,))] of images (B, 1, S, S)."""
    merged = predict_batch(Rsna(), models, VIEWS["flip"], images, precision)
    row = pd.Series({"image_id": "", "width": FRAME, "height": FRAME})
    return [
        detect(Rsna().candidates(one, row, models[0], None), PARAMS, Rsna.gate_weights)
        for one in merged
    ]


def check(ours, plain, precision):
    """The same boxes in fp32; in bf16, which moves boxes past each other, about the same best score of each image (13 %
    apart in the paper's network with random weights)."""
    for (boxes, scores), (plain_boxes, plain_scores) in zip(ours, plain, strict=True):
        assert len(scores) and len(plain_scores), "an image without any box proves nothing"
        if precision == "fp32":
            np.testing.assert_allclose(boxes, plain_boxes, atol=0.1)
            np.testing.assert_allclose(scores, plain_scores, atol=1e-4)
        else:
            np.testing.assert_allclose(scores[0], plain_scores[0], rtol=0.2)


def main():
    args = arguments(__doc__, **NETWORK, models=2, rounds=3)
    config, precision = network_config(args), choose_precision("auto", CPU)
    images = random_batch(config)["image"]
    plain = random_models(config, args.models, images)
    models = [deepcopy(model).to(memory_format=torch.channels_last) for model in plain]
    expected = plain_predict(plain, images)
    for one in {"fp32", precision}:
        check(our_prediction(models, images, one), expected, one)
    functions = {
        "ours": lambda: our_prediction(models, images, precision),
        "reference": lambda: plain_predict(plain, images),
    }
    _, rows = against_limit(
        functions, args.batch_size, args.rounds, 4, matmul_rate(FORMATS[precision])
    )
    show(
        f"Prediction with {args.models} x {args.encoder} x 2 views, {args.image_size} px, P{args.levels}, per image",
        rows,
        f"ours {precision}, reference fp32",
    )


if __name__ == "__main__":
    main()
