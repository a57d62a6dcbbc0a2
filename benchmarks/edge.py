"""How long and how much memory does one view of an image take without PyTorch, beside PyTorch
itself, and how far are the scores from those of onnxruntime in fp32?

    python benchmarks/edge.py                   SE-ResNeXt-101 and ResNet-18, 512 px, minutes
    python benchmarks/edge.py --threads 1       one core, as the board that is aimed at
    python benchmarks/edge.py --encoder resnet18 --small mobilenet_v2 --image-size 256 --rounds 2
    python benchmarks/edge.py --run working/rsna/NAME      fold 0 of a trained run, its own images

Random weights unless --run names a run of the task rsna, one network, without the mirrored view;
the small one with the pyramid and heads of the preset `small`. int8 finds its ranges on the images
that are timed, or with --run on training images. From a stored picture to boxes in every case:
edge_predict.py with each engine, and step 04's code in PyTorch. Each engine has a process of its
own, started again for every round, whose highest resident set (all of it, libraries and weights
included) is the memory; seconds are the fastest of all images but the first, with one thread those
of the processor, so that what else runs there does not count. bf16 is measured where the processor
has it, or with --bf16 1 anyway.
"""

# Nothing but the standard library here: this file is also the process of an engine, in whose memory
# only what that engine needs is to be. So the other imports stand in the functions.

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

sys.path.insert(0, str(Path(__file__).parents[1]))

if TYPE_CHECKING:
    from argparse import Namespace

    import numpy as np
    from timing import Row

    from cxr.networks.detector import DetectorNetwork
    from cxr.settings import Settings

    PredictBoxes = Callable[[np.ndarray], np.ndarray]  # of a picture (S, S), (n, 4) best first

IMAGES = 4  # of a process
SCORES_STEP = 7  # every seventh score is compared; 7 does not divide the shapes of a cell
NO_BF16 = "not on this processor (--bf16 1 measures it anyway)"


class EngineOption(NamedTuple):
    """An engine, and what it runs: a file's name, or for PyTorch a number format."""

    engine: str
    what: str


ENGINES = {
    "PyTorch fp32": EngineOption("torch", "fp32"),
    "PyTorch bf16": EngineOption("torch", "bf16"),
    "onnxruntime fp32": EngineOption("onnxruntime", "net.onnx"),
    "onnxruntime int8": EngineOption("onnxruntime", "net.int8.onnx"),
    "cv2.dnn fp32": EngineOption("opencv", "net.onnx"),
    "cv2.dnn int8": EngineOption("opencv", "net.int8.onnx"),
    "OpenVINO fp32": EngineOption("openvino", "net.onnx"),
    "OpenVINO int8": EngineOption("openvino", "net.int8.onnx"),
    "ncnn fp32": EngineOption("ncnn", "net.onnx"),
}
NOT_HERE = ("not installed", "has no files for ncnn")  # in the refusals of optional engines


class EngineResult(NamedTuple):
    """What a process of an engine finds: seconds of an image, MiB of its highest resident set, the
    best boxes of the last image, its sampled scores (none of PyTorch); or why there is nothing."""

    seconds: float = 0.0
    peak: float = 0.0
    boxes: list[list[float]] | None = None
    scores: list[float] | None = None
    refusal: str = ""


# -------------------------------------------------------------- the process of one engine


def predict_here(folder: Path, engine: str, what: str, threads: int) -> None:
    """Print the fields of an EngineResult of this process."""
    import numpy as np

    pictures = np.load(folder / "pictures.npy")
    if engine == "torch":
        predict = open_torch(folder, what, threads)
    else:
        predict = open_file(folder / what, engine, threads)
    clock = time.process_time if threads == 1 else time.perf_counter
    seconds = []
    for picture in pictures:
        start = clock()
        boxes = predict(picture)
        seconds.append(clock() - start)
    best_boxes = np.asarray(boxes)[:3].tolist()
    peak = own_peak()
    scores = None
    if engine != "torch":
        scores = sample_scores(folder / what, engine, threads, pictures[-1])
    result = EngineResult(min(seconds[1:]), peak, best_boxes, scores)
    print(json.dumps(result._asdict()))


def own_peak() -> float:
    """Highest resident set of this process in MiB. Linux; not ru_maxrss, which begins with that of
    the parent."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) / 1024
    raise RuntimeError("/proc/self/status has no VmHWM")


def open_file(path: Path, engine: str, threads: int) -> PredictBoxes:
    from edge_predict import Predictor

    predictor = Predictor(path, engine, flip=False, threads=threads)

    def predict(picture: np.ndarray) -> np.ndarray:
        return predictor(picture)["boxes"]

    return predict


def sample_scores(path: Path, engine: str, threads: int, picture: np.ndarray) -> list[float]:
    from edge_predict import Predictor

    predictor = Predictor(path, engine, flip=False, threads=threads)
    return predictor.look(picture).scores.reshape(-1)[::SCORES_STEP].tolist()


def open_torch(folder: Path, precision: str, threads: int) -> PredictBoxes:
    import torch
    from prediction import CPU, PARAMS
    from reference import RSNA

    from cxr.datasets.rsna.dataset import GATE_WEIGHTS
    from cxr.inference.checkpoint import load_state
    from cxr.inference.run import load_model, predict_batch
    from cxr.methods.base import VIEW_SETS, ImageFacts
    from cxr.methods.detector.records import detect
    from cxr.system.runtime import Runtime

    torch.set_num_threads(threads)
    path = folder / "net.pt"
    settings = RSNA.make_settings(load_state(path)["config"])
    model = load_model(RSNA, path, CPU)
    runtime = Runtime(CPU, precision)

    def predict(picture: np.ndarray) -> np.ndarray:
        height, width = picture.shape
        image = torch.from_numpy(picture)[None, None]
        views = VIEW_SETS["none"]
        merged = predict_batch([model], RSNA.method, views, image, settings, runtime)
        facts = ImageFacts("", width, height)
        candidates = RSNA.method.to_prediction(merged[0], facts, model, settings)
        return detect(candidates, PARAMS, GATE_WEIGHTS).boxes

    return predict


# ------------------------------------------------------------------ the process that asks


class Subject(NamedTuple):
    """A network with its settings, pictures (n, S, S) uint8 that engines see, and those on which
    int8 finds its ranges."""

    settings: Settings
    model: DetectorNetwork
    pictures: np.ndarray
    calibration: Sequence[np.ndarray]


def random_network(settings: Settings) -> Subject:
    """With lively random weights."""
    import torch
    from reference import build_network, enliven, random_samples

    samples = random_samples(IMAGES, settings.training.image_size)
    images = torch.stack([sample.image for sample in samples])
    torch.manual_seed(0)
    model = enliven(build_network(settings), images[:2])
    pictures = images[:, 0].numpy()
    return Subject(settings, model, pictures, list(pictures))


def trained_network(run: Path) -> Subject:
    """The last checkpoint of fold 0 of a run, <working>/rsna/<name>; that fold's images are seen by
    the engines."""
    import numpy as np
    from prediction import CPU
    from reference import RSNA

    from cxr.data.dataset import read_png
    from cxr.data.tables import read_table
    from cxr.images.resize import resize
    from cxr.inference.checkpoint import load_state
    from cxr.inference.run import load_model
    from cxr.methods.detector.method import as_detector
    from cxr.steps.export.export import CALIBRATION

    checkpoints = sorted(run.glob("fold0/epoch*.pt"))
    if not checkpoints:
        raise SystemExit(f"{run}/fold0 has no epoch*.pt: name the folder of a run that is trained")
    settings = RSNA.make_settings(load_state(checkpoints[-1])["config"])
    model = as_detector(load_model(RSNA, checkpoints[-1], CPU))

    def read(image_id: str) -> np.ndarray:
        return resize(read_png(run.parent / "images" / f"{image_id}.png"), model.image_size)

    table = read_table(run.parent / "train.csv")
    unseen = table["fold"] == 0
    positive = table["n_boxes"] > 0
    pictures = [read(image_id) for image_id in table["image_id"][unseen & positive][:IMAGES]]
    calibration = [read(image_id) for image_id in table["image_id"][~unseen][:CALIBRATION]]
    return Subject(settings, model, np.stack(pictures), calibration)


def write_subject(folder: Path, subject: Subject) -> None:
    """net.pt, net.onnx, net.int8.onnx and pictures.npy (n, S, S)."""
    import numpy as np
    from reference import RSNA

    from cxr.inference.checkpoint import save_state
    from cxr.steps.export.onnx_files import write_fp32, write_int8

    settings, model = subject.settings, subject.model
    np.save(folder / "pictures.npy", subject.pictures)
    checkpoint = {
        "task": "rsna",
        "config": settings.plain(),
        "model": model.state_dict(),
        "input_scale": list(model.scale),
    }
    save_state(folder / "net.pt", checkpoint)
    contents = file_settings(settings, model)
    write_fp32(folder / "net.onnx", [model], contents, RSNA.method.export)
    write_int8(folder / "net.int8.onnx", folder / "net.onnx", subject.calibration, contents)


def write_for_ncnn(folder: Path) -> None:
    """ncnn's files of net.onnx, where it is installed; where not, its row says so."""
    from cxr.steps.export.ncnn_files import write_ncnn
    from cxr.system.errors import InputError
    from edge_predict import why_not_engine

    with suppress(InputError):
        write_ncnn(folder / "net.onnx", why_not_engine)


def file_settings(settings: Settings, model: DetectorNetwork) -> dict[str, Any]:
    """What an exported file says beside the graph."""
    from dataclasses import asdict

    from prediction import PARAMS
    from reference import RSNA

    from cxr.steps.export.export import FORMAT

    labels = RSNA.used_labels(settings)
    scorer = RSNA.dataset.scorer
    contents = {
        "format": FORMAT,
        "name": settings.training.encoder,
        "models": 1,
        "flip": False,
        "image_size": settings.training.image_size,
        "stored_size": settings.training.image_size,
        "classes": list(labels.classes),
        "image_classes": [],
    }
    return contents | RSNA.method.export.describe(model, asdict(PARAMS), settings, labels, scorer)


def run_engine(folder: Path, option: EngineOption, threads: int) -> EngineResult:
    """What `predict_here` finds in a process of its own."""
    environment = os.environ | {"OMP_NUM_THREADS": str(threads), "OPENBLAS_NUM_THREADS": "1"}
    command = [sys.executable, __file__, "--here", str(folder), *option, str(threads)]
    done = subprocess.run(command, text=True, capture_output=True, env=environment)
    if done.returncode:
        return EngineResult(refusal=done.stderr.strip().splitlines()[-1])
    return EngineResult(**json.loads(done.stdout.splitlines()[-1]))


def measure_engines(folder: Path, args: Namespace, bf16: bool) -> dict[str, EngineResult]:
    """{engine: its result, the fastest of the rounds}; alternated, as a machine may slow down."""
    results: dict[str, EngineResult] = {}
    for _ in range(args.rounds):
        for name, option in ENGINES.items():
            if option.what == "bf16" and not bf16:
                results[name] = EngineResult(refusal=NO_BF16)
                continue
            result = run_engine(folder, option, args.threads)
            before = results.get(name, result)
            if result.refusal or result.seconds <= before.seconds:
                results[name] = result
    return results


def check(results: Mapping[str, EngineResult]) -> None:
    """The best boxes of every fp32 engine are PyTorch's."""
    import numpy as np

    expected = results["PyTorch fp32"].boxes
    assert expected, results["PyTorch fp32"].refusal
    for name in ("onnxruntime fp32", "cv2.dnn fp32", "OpenVINO fp32", "ncnn fp32"):
        if any(words in results[name].refusal for words in NOT_HERE):
            continue
        boxes = results[name].boxes
        assert boxes, results[name].refusal
        np.testing.assert_allclose(boxes, expected, atol=0.5)


def describe_scores(scores: list[float], right: list[float]) -> str:
    """How far scores are from those of onnxruntime in fp32."""
    import numpy as np

    error = np.abs(np.array(scores) - right).mean()
    correlation = np.corrcoef(scores, right)[0, 1]
    return f"scores within {error:.1g} in the mean, correlation {correlation:.4f}"


def engine_rows(encoder: str, results: Mapping[str, EngineResult]) -> list[Row]:
    from timing import Row, duration

    first = results["PyTorch fp32"].seconds
    right = results["onnxruntime fp32"].scores
    rows = []
    for name, result in results.items():
        title = f"{encoder}: {name}"
        if result.refusal:
            rows.append(Row(title, result.refusal))
        else:
            value = f"{duration(result.seconds)}, {result.peak:.0f} MiB"
            if result.scores and right:
                value += f", {describe_scores(result.scores, right)}"
            rows.append(Row(title, value, first / result.seconds))
    return rows


def choose_subjects(args: Namespace) -> Iterator[Subject]:
    """A trained network, or the paper's and the small one."""
    from reference import RSNA

    if args.run:
        yield trained_network(Path(args.run))
        return
    values = {"image_size": args.image_size, "weights": "none"}
    large = {"encoder": args.encoder, "levels": args.levels}
    small = {**RSNA.presets["small"].values, "encoder": args.small}
    for network in (large, small):
        yield random_network(RSNA.make_settings({**network, **values}))


def main() -> None:
    from timing import arguments, show

    from cxr.system.device import cpu_has_bf16

    args = arguments(
        __doc__,
        encoder="se_resnext101_32x4d",
        small="resnet18",
        image_size=512,
        levels="2-7",
        run="",
        rounds=3,
        bf16=0,
    )
    logging.disable(logging.WARNING)
    bf16 = bool(args.bf16) or cpu_has_bf16()
    rows = []
    for subject in choose_subjects(args):
        with tempfile.TemporaryDirectory() as folder:
            write_subject(Path(folder), subject)
            write_for_ncnn(Path(folder))
            results = measure_engines(Path(folder), args, bf16)
        check(results)
        rows += engine_rows(subject.settings.training.encoder, results)
        side = subject.model.image_size
    show(
        f"One view of an image at {side} px without and with PyTorch: seconds, highest "
        "resident set",
        rows,
        "each as its name says",
    )


if __name__ == "__main__":
    if sys.argv[1:2] == ["--here"]:
        folder, engine, what, threads = sys.argv[2:6]
        predict_here(Path(folder), engine, what, int(threads))
    else:
        main()
