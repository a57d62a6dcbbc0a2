"""What each idea brings: nested out-of-fold score of a trained run with one idea left out or added
at a time.

    python benchmarks/ablation.py --preset small        prediction and post-processing
    python benchmarks/ablation.py --preset small --compare small-seed=43
                                                        and other runs, alone and merged with this
                                                        one, on the folds they share
    python benchmarks/ablation.py --preset small --gate small
                                                        and a run of rsna-classes as the gate

Every difference is paired: the same images (patients drawn whole) are drawn again 1,000 times. The
prediction variants are kept in fold<k>/valid_ablation-<name>/ and read from there the next time.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

sys.path.insert(0, str(Path(__file__).parents[1]))

from cxr.command_line import run_step
from cxr.data.tables import read_table
from cxr.inference.checkpoint import load_state, save_state
from cxr.inference.gate import Gate, out_of_fold_gate
from cxr.inference.predict_table import predict_table
from cxr.inference.run import as_trained, fold_checkpoints
from cxr.methods.detector.image_scorer import RsnaMap, score_images
from cxr.methods.detector.records import GATES, NO_SHRINK
from cxr.methods.detector.search import Grid, Tally, nested, search
from cxr.metrics.means import mean_score
from cxr.run_folder import FoldFolder, RunFolder
from cxr.settings import Settings
from cxr.steps.postprocess.postprocess import OutOfFold, finished_folds
from cxr.system.errors import InputError
from cxr.system.runtime import Runtime, open_runtime
from cxr.tasks import Task

# Prediction with other settings.
PREDICTIONS: dict[str, dict[str, Any]] = {
    "one view": {"tta": "none"},
    "flipped view": {"tta": "flip"},
    "flipped, larger and smaller views": {"tta": "flip+scale"},
    "last epoch only": {"checkpoints": 1},
}
LAST_EPOCH = "last epoch only"
# Searches over fewer values.
RULES: dict[str, dict[str, Any]] = {
    "no gate": {"gate": (False,)},
    "no shrink": {"percentile_shrink": (NO_SHRINK,), "scale": (1.0,)},
    "percentile shrink only": {"scale": (1.0,)},
    "fixed shrink only": {"percentile_shrink": (NO_SHRINK,)},
    "NMS only": {"merge": ("nms",)},
    "boxes fusion only": {"merge": ("wbf",)},
    "no half rule": {"half": (False,)},
}
# Searches over more values, of rules that step 05 only tries where it is asked to.
FURTHER_RULES: dict[str, dict[str, Any]] = {
    "vote counts, too": {"votes": (0.0, 0.5, 1.0)},
    "a rule for lone boxes, too": {"lone": (1.0, 1.5, 2.0, 3.0)},
}
REDRAWN = 1000  # times that the patients are drawn for an interval


class Variant(NamedTuple):
    """Scores of each image (nan: not counted), and those that they are compared with."""

    name: str
    scores: pd.Series
    reference: pd.Series


@dataclass(frozen=True)
class RunAblation:
    """A run whose predictions are varied. table: the judged rows of train.csv, by image_id."""

    task: Task
    settings: Settings
    scorer: RsnaMap
    table: pd.DataFrame
    runtime: Runtime
    gate: Gate | None = None  # of --gate

    # ------------------------------------------------------------------ what is judged

    def out_of_fold(self, settings: Settings, folds: Sequence[int]) -> OutOfFold:
        table = self.table[self.table["fold"].isin(folds)]
        return OutOfFold(
            task=self.task,
            run=RunFolder.of(settings.place),
            predictions=settings.prediction.predictions,
            folds=list(folds),
            table=table,
            learned=self.table,
            known_ids=frozenset(self.table.index),
            gate=self.gate,
        )

    def tally(
        self, settings: Settings, folds: Sequence[int], further: Mapping[str, Any] | None = None
    ) -> Tally:
        """Sums of scores over the whole grid of parameters, with further values of some."""
        cases = self.out_of_fold(settings, folds).cases()
        return search(cases, Grid(**(further or {})), self.scorer.gate_weights)

    def scores(
        self, settings: Settings, folds: Sequence[int], tally: Tally | None = None
    ) -> pd.Series:
        """Score of each out-of-fold image (nan: not counted), parameters fitted without its
        fold."""
        outcome = nested(tally or self.tally(settings, folds))
        cases = self.out_of_fold(settings, folds).cases
        choices = {"score": outcome.params_for}
        table = score_images(cases, choices, self.scorer.gate_weights)
        return table.set_index("image_id")["score"]

    def predict(self, settings: Settings, checkpoints: Mapping[int, Sequence[Path]]) -> None:
        """Out-of-fold predictions of {fold: paths of checkpoints}."""
        run = RunFolder.of(settings.place)
        for fold, paths in checkpoints.items():
            rows = self.table[self.table["fold"] == fold].reset_index(drop=True)
            folder = run.fold(fold).valid_predictions(settings.prediction.predictions)
            predict_table(self.task, settings, paths, rows, folder, self.runtime)

    def checkpoints(self, settings: Settings, folds: Sequence[int]) -> dict[int, list[Path]]:
        return {fold: fold_checkpoints(self.task, settings, fold) for fold in folds}

    # -------------------------------------------------------------------- the variants

    def rule_variants(self, folds: Sequence[int]) -> list[Variant]:
        """The run as it is, then with fewer values to search."""
        tally = self.tally(self.settings, folds)
        whole = self.scores(self.settings, folds, tally)
        variants = [Variant("as it is", whole, whole)]
        for name, values in RULES.items():
            scores = self.scores(self.settings, folds, tally.only(**values))
            variants.append(Variant(name, scores, whole))
        rules = dict(FURTHER_RULES)
        if self.gate is not None:
            rules[f"gate by {self.settings.method.gate}, too"] = {"gate_by": GATES}
        for name, values in rules.items():
            scores = self.scores(self.settings, folds, self.tally(self.settings, folds, values))
            variants.append(Variant(name, scores, whole))
        return variants

    def prediction_variants(self, folds: Sequence[int], whole: pd.Series) -> list[Variant]:
        """Other views, fewer checkpoints."""
        variants = []
        for name, changes in PREDICTIONS.items():
            settings = self.settings.replace(predictions=kept_as(name), **changes)
            try:
                self.predict(settings, self.checkpoints(settings, folds))
            except InputError as error:  # views that are too small for the network
                print(f"left out: {name}: {error}")
                continue
            variants.append(Variant(name, self.scores(settings, folds), whole))
        return variants

    def raw_weight_variants(self, folds: Sequence[int]) -> list[Variant]:
        """The last epoch's weights as they were trained, where the run keeps their average."""
        last = self.settings.replace(checkpoints=1, predictions=kept_as(LAST_EPOCH))
        checkpoints = self.checkpoints(last, folds)
        first_state = load_state(checkpoints[folds[0]][-1])
        if not self.task.make_settings(first_state["config"]).training.ema:
            return []
        raw = last.replace(predictions=kept_as("raw weights"))
        self.predict(raw, {fold: [raw_checkpoint(checkpoints[fold][0])] for fold in folds})
        raw_scores = self.scores(raw, folds)
        last_scores = self.scores(last, folds)
        return [Variant("last epoch, weights not averaged", raw_scores, last_scores)]

    def run_variants(self, run: str, folds: Sequence[int]) -> list[Variant]:
        """Another run alone and merged with this one, on the folds that both have."""
        other = self.settings.replace(run=run)
        other_folds = finished_folds(
            RunFolder.of(other.place), other.prediction.predictions, self.table, None
        )
        shared = [fold for fold in other_folds if fold in folds]
        alone = self.scores(self.settings, shared)
        variants = [Variant(run, self.scores(other, shared), alone)]

        merged = self.settings.replace(predictions=kept_as(f"with {run}"), merge=(run,))
        try:
            self.predict(merged, self.checkpoints(merged, shared))
        except InputError as error:  # it sees images of another size
            print(f"left out: merged with {run}: {error}")
            return variants
        variants.append(Variant(f"merged with {run}", self.scores(merged, shared), alone))
        return variants


def kept_as(name: str) -> str:
    """Name of the predictions of a variant."""
    return "ablation-" + name.replace(" ", "-")


def raw_checkpoint(path: Path) -> Path:
    """Checkpoint like `path`, the last epoch's, with the weights that were trained instead of their
    moving average."""
    raw = path.with_name("raw.pt")
    last = load_state(FoldFolder(path.parent).last)
    save_state(raw, load_state(path) | {"model": last["model"]})
    return raw


def ablate(task: Task, settings: Settings) -> None:
    """Print the table."""
    scorer = task.dataset.scorer
    if not isinstance(scorer, RsnaMap):
        raise InputError(
            f"{task.name} is not judged by scores of images, of which this table is made: choose "
            "another --task"
        )
    run = RunFolder.of(settings.place)
    train = read_table(run.task.table("train")).set_index("image_id", drop=False)
    folds = finished_folds(run, settings.prediction.predictions, train, None)
    settings = as_trained(settings, task, run.fold(folds[0]))
    table = task.select_rows(train, settings)
    gate = None
    if settings.method.gate:
        judged = table[table["fold"].isin(folds)]
        gate = out_of_fold_gate(task, run.task, settings.method.gate, judged)
    with open_runtime(settings.machine) as runtime:
        ablation = RunAblation(task, settings, scorer, table, runtime, gate)
        variants = ablation.rule_variants(folds)
        variants += ablation.prediction_variants(folds, variants[0].scores)
        variants += ablation.raw_weight_variants(folds)
        for name in settings.judging.compare:
            variants += ablation.run_variants(name, folds)
    show_variants(variants, table["group"])


# ------------------------------------------------------------------------------ the table


def difference_interval(
    scores: pd.Series, reference: pd.Series, groups: pd.Series
) -> tuple[float, float]:
    """95 % interval (low, high) of the difference of two mean scores under the same redrawn
    patients."""
    table = pd.DataFrame({"scores": scores, "reference": reference})
    patients = groups.reindex(table.index).to_numpy()
    members = [rows.to_numpy() for _, rows in table.groupby(patients)]
    generator = np.random.default_rng(0)
    differences = []
    for _ in range(REDRAWN):
        drawn = generator.integers(len(members), size=len(members))
        rows = np.concatenate([members[i] for i in drawn])
        differences.append(mean_score(rows[:, 0]) - mean_score(rows[:, 1]))
    low, high = np.percentile(differences, [2.5, 97.5]).tolist()
    return low, high


def show_variants(variants: Sequence[Variant], groups: pd.Series) -> None:
    print("\n| variant | score | difference | 95 % interval of the difference |\n|---|---|---|---|")
    for variant in variants:
        low, high = difference_interval(variant.scores, variant.reference, groups)
        score = mean_score(variant.scores)
        gain = score - mean_score(variant.reference)
        print(f"| {variant.name} | {score:.4f} | {gain:+.4f} | {low:+.4f} to {high:+.4f} |")


if __name__ == "__main__":
    run_step("postprocess", ablate, __doc__)
