"""A run as one ONNX file in fp32 and int8, and what each of the two is worth on validation images."""

from dataclasses import replace

import numpy as np
import torch
from tqdm import tqdm

from cxr.data.dataset import read_png, read_table, scaled_boxes
from cxr.geometry.anchors import decode_boxes
from cxr.images.read import resize
from cxr.inference.checkpoint import fingerprints
from cxr.inference.run import VIEWS, fold_checkpoints, load_model, stored_config
from cxr.steps.export.onnx_files import write_fp32, write_int8
from cxr.steps.train.manifest import git_commit
from cxr.system.disk import InputError, read_json, write_json

FORMAT = 1  # of the settings in the file; edge_predict.py says which one it reads
CALIBRATION = 48  # training images on which int8 finds its ranges; they are not judged
COMPARED = 4  # of them: where file and PyTorch must agree
PIXELS, SCORE = 0.5, 1e-3  # how much they may differ in original pixels and probability


def export_run(task, config, predictor):
    """Write <run>/<name>.onnx, <name>.int8.onnx and <name>.json (what they hold and are worth), and print it.

    name: `merged`, or `fold<k>` with --fold. Of each fold only the last checkpoint is taken unless --checkpoints says
    otherwise: a device without PyTorch is slow, and the earlier ones bring little. Nothing is done where the same
    checkpoints and parameters have been written already. `predictor(path, models=...)` is edge_predict.Predictor, so
    that a file is judged by the code that will use it.
    """
    if config.tta == "flip+scale" and "tta" not in config.explicit:
        print(
            "larger and smaller views are left out, since the size of the image is fixed in an ONNX file"
        )
        config = replace(config, tta="flip")
    chosen = choose_checkpoints(task, config)
    trained = stored_config(read_json(config.fold_dir(chosen[0][0]) / "config.json"))
    settings = describe_run(task, config, trained, chosen)
    name = "merged" if config.fold is None else f"fold{config.fold}"
    path, report = config.run_dir / f"{name}.onnx", config.run_dir / f"{name}.json"
    files = {"fp32": path, "int8": path.with_suffix(".int8.onnx")}
    asked = {"settings": settings, "judge_images": config.judge_images}
    if report.exists() and all(file.exists() for file in files.values()):
        if {key: read_json(report).get(key) for key in asked} == asked:
            print(f"{path} is there, made from the same checkpoints and parameters: nothing to do")
            return
    report.unlink(missing_ok=True)  # written last: without it the files are not known to be whole
    train = task.select(read_table(config.task_dir / "train.csv"), trained)
    calibration, judged = deal_images(config, train)
    parity = write_files(task, config, files, chosen, calibration, settings, predictor)
    worth = {
        kind: judge(task, config, trained, file, judged, chosen, predictor)
        for kind, file in files.items()
    }
    write_json(
        report,
        asked | {"images": len(judged), "score_name": task.score_name, "parity": parity, **worth},
    )
    say(report, files, parity, worth, len(judged), task.score_name)


def choose_checkpoints(task, config):
    """[(fold, path)] of what is merged. Raises InputError where a fold is not trained or the views cannot be had."""
    if config.tta not in ("none", "flip"):
        raise InputError(
            f"--tta {config.tta} changes the size of the image, which is fixed in an ONNX file: use "
            "--tta flip or none"
        )
    count = config.checkpoints if "checkpoints" in config.explicit else 1
    return [
        (fold, path)
        for fold in config.wanted_folds()
        for path in fold_checkpoints(task, replace(config, checkpoints=count), fold)
    ]


def describe_run(task, config, trained, chosen):
    """All that a predictor must know beside the graph, as plain values."""
    params = config.run_dir / "params.json"
    if not params.exists():
        raise InputError(
            f"{params} is missing: run 05_postprocess.py first, which fits the thresholds"
        )
    levels = list(load_model(task, chosen[0][1], "cpu").levels)  # as JSON gives them back
    return {
        "format": FORMAT,
        "name": f"{task.name} {config.run}",
        "checkpoints": fingerprints([path for _, path in chosen], config.run_dir),
        "models": len(chosen),
        "flip": config.tta == "flip",
        "image_size": trained.image_size,
        "levels": levels,
        "stored_size": read_json(config.task_dir / "preprocess.json")["size"],
        "classes": list(task.used_classes(trained)),
        "image_classes": list(task.class_names) if trained.global_weight else [],
        "floor": task.floor,
        "most": task.most,
        "rule": task.plain_rule(read_json(params), trained),
    }


def deal_images(config, train):
    """(rows that calibrate, rows to judge on): of the judged ones each wanted fold has its share.

    A file of one fold is calibrated on images it was trained with. In a merged file all images are both, so those that
    calibrate are taken out of the judged ones.
    """
    rng, folds = np.random.default_rng(config.seed), config.wanted_folds()
    pool = train[train["fold"] != config.fold]
    calibration = pool.loc[rng.permutation(pool.index)[: min(CALIBRATION, -(-len(pool) // 4))]]
    rest, share = train.drop(index=calibration.index), -(-config.judge_images // len(folds))
    parts = [rest[rest["fold"] == fold] for fold in folds]
    chosen = [index for part in parts for index in rng.permutation(part.index)[:share]]
    return calibration, train.loc[chosen]


def write_files(task, config, files, chosen, calibration, settings, predictor):
    """Write both files. Returns how far the first is from PyTorch; RuntimeError where that is too far."""
    networks = [load_model(task, path, "cpu") for _, path in chosen]
    pictures = [
        read_png(config.task_dir / "images" / f"{image_id}.png")
        for image_id in calibration["image_id"]
    ]
    print(
        f"{files['fp32']}: writing {len(networks)} networks, in int8 with the ranges of {len(pictures)} images",
        flush=True,
    )
    settings = settings | {"code": git_commit()}
    write_fp32(files["fp32"], networks, settings)
    parity = compare(
        task,
        networks,
        predictor(files["fp32"]),
        pictures[:COMPARED],
        calibration[["width", "height"]].to_numpy().max(1),
        VIEWS[config.tta],
    )
    if parity["pixels"] > PIXELS or parity["score"] > SCORE:
        files["fp32"].unlink()
        raise RuntimeError(
            f"the ONNX file differs from PyTorch by {parity}: this pair of torch and onnxruntime, or "
            "this encoder, cannot be used; the file was removed"
        )
    write_int8(
        files["int8"],
        files["fp32"],
        [resize(one, settings["image_size"]) for one in pictures],
        settings,
    )
    return parity


@torch.inference_mode()
def compare(task, networks, found, pictures, frames, views):
    """Largest difference of file and PyTorch over stored pictures: of box corners in pixels of an original whose longer
    side is `frames`, of anchors above the floor, and of all probabilities."""
    largest, anchors, side = (
        {"pixels": 0.0, "score": 0.0},
        networks[0].anchors,
        networks[0].image_size,
    )
    for picture, frame in zip(pictures, frames):
        image = torch.from_numpy(resize(picture, side))[None, None]
        raw = [
            task.undo_view(network(task.apply_view(image, view, network)), view, network)
            for view in views
            for network in networks
        ]
        scores, category = (
            torch.stack([part[name][0] for part in raw]).mean(0) for name in ("scores", "category")
        )
        own_scores, own_deltas, own_category = map(torch.from_numpy, found.look(picture))
        shown = (scores.amax(1) > task.floor).nonzero()[:, 0]
        moved = [
            (
                decode_boxes(mine[shown], anchors[shown])
                - decode_boxes(part["deltas"](0 * shown, shown), anchors[shown])
            ).abs()
            for mine, part in zip(own_deltas, raw)
        ]
        pixels = torch.stack(moved).amax().item() * float(frame) / side if len(shown) else 0.0
        apart = max(
            (own_scores - scores).abs().max().item(), (own_category - category).abs().max().item()
        )
        largest = {"pixels": max(largest["pixels"], pixels), "score": max(largest["score"], apart)}
    return largest


def judge(task, config, trained, file, judged, chosen, predictor):
    """{"score", "bytes"} of a file on the judged rows, each of which only the networks that never saw it predict."""
    truth, found = {}, {}
    for fold in config.wanted_folds():
        rows = judged[judged["fold"] == fold]
        predict = predictor(file, models=[k for k, (own, _) in enumerate(chosen) if own == fold])
        for _, row in tqdm(
            rows.iterrows(), total=len(rows), desc=f"{file.name}, fold {fold}", mininterval=5
        ):
            frame = int(row["width"]), int(row["height"])
            truth[row["image_id"]] = scaled_boxes(row, *frame)
            found[row["image_id"]] = predict(
                read_png(config.task_dir / "images" / f"{row['image_id']}.png"), frame
            )
    return {"score": task.plain_score(truth, found, trained), "bytes": file.stat().st_size}


def say(report, files, parity, worth, count, name):
    print(
        f"fp32 is PyTorch within {parity['pixels']:.2g} pixels and {parity['score']:.2g} of a probability\n"
        f"{name} on {count} validation images, each predicted by the networks that never saw it:"
    )
    for kind, file in files.items():
        score = worth[kind]["score"]
        print(
            f"  {kind} {'not defined' if score is None else f'{score:.4f}'}, {worth[kind]['bytes'] / 2**20:.1f} MiB: "
            f"{file}"
        )
    print(f"written to {report}; edge_predict.py uses these files without PyTorch")
