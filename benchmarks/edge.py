"""How long and how much memory does one view of an image take without PyTorch, beside PyTorch itself?

    python benchmarks/edge.py                                              SE-ResNeXt-101 and ResNet-18, 512 px, minutes
    python benchmarks/edge.py --encoder resnet18 --small mobilenet_v2 --image-size 256 --rounds 2
    python benchmarks/edge.py --threads 1                                  one core, as the board that is aimed at

Random weights, one network, without the mirrored view; the small one with the pyramid and heads of the preset `small`.
From a stored picture to boxes in every case: edge_predict.py with each engine, and step 04's code in PyTorch. Each
engine has a process of its own, started again for every round, whose highest resident set (all of it, libraries and
weights included) is the memory; seconds are the fastest of all images but the first. bf16 is measured where the
processor has it, or with --bf16 1 anyway.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

IMAGES = 4  # of a process
ENGINES = {
    "PyTorch fp32": ("torch", "fp32"),
    "PyTorch bf16": ("torch", "bf16"),
    "onnxruntime fp32": ("onnxruntime", "net.onnx"),
    "onnxruntime int8": ("onnxruntime", "net.int8.onnx"),
    "cv2.dnn fp32": ("opencv", "net.onnx"),
    "cv2.dnn int8": ("opencv", "net.int8.onnx"),
}


def predict_here(folder, engine, what, threads):
    """Print {"seconds", "peak" (MiB), "boxes"} of this process."""
    import numpy as np  # here and below: only what an engine needs is to be in its memory

    pictures = np.load(folder / "pictures.npy")
    predict = (by_torch if engine == "torch" else by_file)(folder, engine, what, threads)
    seconds = []
    for picture in pictures:
        start = time.perf_counter()
        boxes = predict(picture)
        seconds.append(time.perf_counter() - start)
    print(
        json.dumps(
            {"seconds": min(seconds[1:]), "peak": peak(), "boxes": np.asarray(boxes)[:3].tolist()}
        )
    )


def peak():
    """Highest resident set of this process in MiB. Linux; not ru_maxrss, which begins with that of the parent."""
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(status["VmHWM"].split()[0]) / 1024


def by_file(folder, engine, what, threads):
    from edge_predict import Predictor

    predictor = Predictor(folder / what, engine, flip=False, threads=threads)
    return lambda picture: predictor(picture)["boxes"]


def by_torch(folder, engine, precision, threads):
    import pandas as pd
    import torch
    from prediction import PARAMS

    from cxr.datasets.rsna.dataset import Rsna
    from cxr.inference.run import load_model, predict_batch
    from cxr.methods.detector.records import detect

    torch.set_num_threads(threads)
    model = load_model(Rsna(), folder / "net.pt", "cpu")

    def predict(picture):
        row = pd.Series({"image_id": "", "width": picture.shape[1], "height": picture.shape[0]})
        image = torch.from_numpy(picture)[None, None]
        merged = predict_batch(Rsna(), [model], [(0, False)], image, precision)
        return detect(Rsna().candidates(merged[0], row, model, None), PARAMS, Rsna.gate_weights)[0]

    return predict


def write_network(folder, config):
    """net.pt, net.onnx, net.int8.onnx and pictures.npy (n, S, S) of a network with lively random weights."""
    from dataclasses import asdict

    import numpy as np
    import torch
    from prediction import PARAMS
    from reference import enliven, random_samples

    from cxr.datasets.rsna.dataset import Rsna
    from cxr.inference.checkpoint import plain_config, save_state
    from cxr.methods.detector.image_scorer import plain_rule
    from cxr.steps.export.export import FORMAT
    from cxr.steps.export.onnx_files import write_fp32, write_int8

    images = torch.stack([sample["image"] for sample in random_samples(IMAGES, config.image_size)])
    np.save(folder / "pictures.npy", images[:, 0].numpy())
    torch.manual_seed(0)
    model = enliven(Rsna().build_model(config), images[:2])
    save_state(
        folder / "net.pt",
        {"task": "rsna", "config": plain_config(config), "model": model.state_dict()},
    )
    settings = {
        "format": FORMAT,
        "name": config.encoder,
        "models": 1,
        "flip": False,
        "image_size": config.image_size,
        "stored_size": config.image_size,
        "levels": model.levels,
        "classes": ["box"],
        "image_classes": [],
        "floor": Rsna.floor,
        "most": Rsna.most,
        "rule": plain_rule(asdict(PARAMS), Rsna.gate_weights),
    }
    write_fp32(folder / "net.onnx", [model], settings)
    write_int8(folder / "net.int8.onnx", folder / "net.onnx", list(images[:, 0].numpy()), settings)


def run(folder, engine, what, threads):
    """What `predict_here` prints in a process of its own, or why there is nothing."""
    environment = os.environ | {"OMP_NUM_THREADS": str(threads), "OPENBLAS_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, __file__, "--here", folder, engine, what, str(threads)],
        text=True,
        capture_output=True,
        env=environment,
    )
    return (
        json.loads(done.stdout.splitlines()[-1])
        if done.returncode == 0
        else done.stderr.strip().splitlines()[-1]
    )


def measure_engines(folder, args, bf16):
    """{engine: what `run` gives, the fastest of the rounds}; alternated, as a machine may slow down."""
    best = {}
    for _ in range(args.rounds):
        for name, (engine, what) in ENGINES.items():
            if what == "bf16" and not bf16:
                best[name] = "not on this processor (--bf16 1 measures it anyway)"
                continue
            found = run(folder, engine, what, args.threads)
            if (
                isinstance(found, str)
                or name not in best
                or found["seconds"] < best[name]["seconds"]
            ):
                best[name] = found
    return best


def check(found):
    """The best boxes of every fp32 engine are PyTorch's."""
    import numpy as np

    for name in ("onnxruntime fp32", "cv2.dnn fp32"):
        np.testing.assert_allclose(found[name]["boxes"], found["PyTorch fp32"]["boxes"], atol=0.5)


def rows_of(encoder, found, duration, row):
    first = found["PyTorch fp32"]["seconds"]
    for name, one in found.items():
        value = (
            one if isinstance(one, str) else f"{duration(one['seconds'])}, {one['peak']:.0f} MiB"
        )
        yield row(
            f"{encoder}: {name}", value, None if isinstance(one, str) else first / one["seconds"]
        )


def main():
    import logging

    from timing import Row, arguments, duration, show

    from cxr.config import Config
    from cxr.datasets.rsna.dataset import Rsna
    from cxr.system.device import cpu_has_bf16

    args = arguments(
        __doc__,
        encoder="se_resnext101_32x4d",
        small="resnet18",
        image_size=512,
        levels="2-7",
        rounds=3,
        bf16=0,
    )
    logging.disable(logging.WARNING)
    small = Rsna.presets["small"] | {
        "encoder": args.small,
        "image_size": args.image_size,
        "weights": "none",
    }
    large = Config(
        encoder=args.encoder, image_size=args.image_size, levels=args.levels, weights="none"
    )
    rows = []
    for config in (large, Config(**small)):
        with tempfile.TemporaryDirectory() as folder:
            write_network(Path(folder), config)
            found = measure_engines(Path(folder), args, args.bf16 or cpu_has_bf16())
        check(found)
        rows += [*rows_of(config.encoder, found, duration, Row)]
    show(
        f"One view of an image at {args.image_size} px without and with PyTorch: seconds, highest resident set",
        rows,
        "each as its name says",
    )


if __name__ == "__main__":
    if sys.argv[1:2] == ["--here"]:
        predict_here(Path(sys.argv[2]), *sys.argv[3:5], int(sys.argv[5]))
    else:
        main()
