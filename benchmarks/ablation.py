"""What each idea brings: nested out-of-fold score of a trained run with one idea left out or added at a time.

    python benchmarks/ablation.py --preset small                            prediction and post-processing
    python benchmarks/ablation.py --preset small --compare small-seed=43    and other runs, alone and merged with
                                                                            this one, on the folds they share

Every difference is paired: the same images (patients drawn whole) are drawn again 1,000 times. The prediction variants
are kept in fold<k>/valid_ablation-<name>/ and read from there the next time.
"""

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd

sys.path.insert(0, str(Path(__file__).parents[1]))

from cxr.config import run_step  # noqa: E402
from cxr.data.dataset import read_table  # noqa: E402
from cxr.inference.checkpoint import load_state, save_state  # noqa: E402
from cxr.inference.run import fold_checkpoints, predict_table  # noqa: E402
from cxr.methods.detector.image_scorer import score_images  # noqa: E402
from cxr.methods.detector.records import NO_SHRINK  # noqa: E402
from cxr.methods.detector.search import Grid, nested, search  # noqa: E402
from cxr.metrics.means import mean_score  # noqa: E402
from cxr.steps.postprocess.postprocess import cases, finished_folds  # noqa: E402
from cxr.system.device import choose_device, choose_precision  # noqa: E402
from cxr.system.errors import InputError  # noqa: E402
from cxr.tasks import TASKS  # noqa: E402

PREDICTIONS = {
    "one view": {"tta": "none"},
    "flipped view": {"tta": "flip"},
    "flipped, larger and smaller views": {"tta": "flip+scale"},
    "last epoch only": {"checkpoints": 1},
}
RULES = {
    "no gate": {"gate": (False,)},
    "no shrink": {"percentile_shrink": (NO_SHRINK,), "scale": (1.0,)},
    "percentile shrink only": {"scale": (1.0,)},
    "fixed shrink only": {"percentile_shrink": (NO_SHRINK,)},
    "NMS only": {"merge": ("nms",)},
    "boxes fusion only": {"merge": ("wbf",)},
    "no half rule": {"half": (False,)},
}


def step(task, config):
    if not hasattr(task, "gate_weights"):
        raise InputError(
            f"{task.name} is not judged by scores of images, of which this table is made"
        )
    train = read_table(config.task_dir / "train.csv").set_index("image_id", drop=False)
    folds, _ = finished_folds(config, train)
    tally = tally_of(task, config, train, folds)
    whole = scores(task, config, train, folds, tally)
    rows = [("as it is", whole, whole)]
    for name, fixed in RULES.items():
        rows.append((name, scores(task, config, train, folds, tally.only(**fixed)), whole))
    for name, change in PREDICTIONS.items():
        variant = replace(config, predictions="ablation-" + name.replace(" ", "-"), **change)
        try:
            predict(
                task,
                variant,
                train,
                {fold: fold_checkpoints(task, variant, fold) for fold in folds},
            )
        except InputError as error:  # views that are too small for the network
            print(f"left out: {name}: {error}")
            continue
        rows.append((name, scores(task, variant, train, folds), whole))
    last = replace(config, checkpoints=1, predictions="ablation-last-epoch-only")
    raw = replace(config, checkpoints=1, predictions="ablation-raw-weights")
    if load_state(fold_checkpoints(task, config, folds[0])[-1])["config"]["ema"]:
        predict(
            task,
            raw,
            train,
            {fold: [raw_checkpoint(fold_checkpoints(task, raw, fold)[0])] for fold in folds},
        )
        rows.append(
            (
                "last epoch, weights not averaged",
                scores(task, raw, train, folds),
                scores(task, last, train, folds),
            )
        )
    for run in config.compare:
        other = replace(config, run=run)
        shared = [fold for fold in finished_folds(other, train)[0] if fold in folds]
        alone = scores(task, config, train, shared)
        rows.append((run, scores(task, other, train, shared), alone))
        both = replace(config, predictions=f"ablation-with-{run}", merge=(run,))
        try:
            predict(
                task, both, train, {fold: fold_checkpoints(task, both, fold) for fold in shared}
            )
        except InputError as error:  # it sees images of another size
            print(f"left out: merged with {run}: {error}")
            continue
        rows.append((f"merged with {run}", scores(task, both, train, shared), alone))
    show(rows, train["group"])


def tally_of(task, config, train, folds):
    return search(cases(task, config, train, folds, train.index), Grid(), task.gate_weights)


def scores(task, config, train, folds, tally=None):
    """Score of each out-of-fold image (nan: not counted), parameters fitted without its fold."""
    outcome = nested(tally or tally_of(task, config, train, folds))
    table = score_images(
        lambda: cases(task, config, train, folds, train.index),
        {"score": outcome.params_for},
        task.gate_weights,
    )
    return table.set_index("image_id")["score"]


def predict(task, config, train, checkpoints):
    """Out-of-fold predictions of {fold: paths of checkpoints}."""
    device = choose_device(config.device)
    precision = choose_precision(config.precision, device)
    for fold, paths in checkpoints.items():
        predict_table(
            task,
            config,
            paths,
            train[train["fold"] == fold],
            config.fold_dir(fold) / f"valid_{config.predictions}",
            device,
            precision,
        )


def raw_checkpoint(path):
    """Checkpoint like `path`, the last epoch's, with the weights that were trained instead of their moving average."""
    raw = path.with_name("raw.pt")
    save_state(raw, load_state(path) | {"model": load_state(path.with_name("last.pt"))["model"]})
    return raw


def difference(one, other, groups, n=1000):
    """95 % interval (low, high) of the difference of two mean scores under the same redrawn patients."""
    table = pd.DataFrame({"one": one, "other": other})
    members = [rows.to_numpy() for _, rows in table.groupby(groups.reindex(table.index).to_numpy())]
    generator = np.random.default_rng(0)
    found = []
    for _ in range(n):
        drawn = np.concatenate(
            [members[i] for i in generator.integers(len(members), size=len(members))]
        )
        found.append(mean_score(drawn[:, 0]) - mean_score(drawn[:, 1]))
    return np.percentile(found, [2.5, 97.5])


def show(rows, groups):
    print("\n| variant | score | difference | 95 % interval of the difference |\n|---|---|---|---|")
    for name, found, reference in rows:
        low, high = difference(found, reference, groups)
        gain = mean_score(found) - mean_score(reference)
        print(f"| {name} | {mean_score(found):.4f} | {gain:+.4f} | {low:+.4f} to {high:+.4f} |")


if __name__ == "__main__":
    run_step(step, __doc__, TASKS)
