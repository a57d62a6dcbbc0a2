"""How far do the votes for the size of a box lie apart, within one fold and over all of them?

    python 04_predict.py --demo --size-votes all --predictions all_votes
    python benchmarks/size_votes.py working/demo/rsna/demo predictions all_votes

The shrink of the boxes is a number of times the spread: log(size80 / size20) over models and views.
It is fitted on validation images, where the networks of one fold vote, and used on test images,
where those of all folds do. It means the same there only if the spread is the same.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

from cxr.data.predictions import read_predictions
from cxr.methods.detector.records import Candidates
from cxr.run_folder import RunFolder

SURE = 0.1  # score from which a candidate is looked at: the others become no boxes


def log_spreads(folder: Path) -> np.ndarray:
    """(n,) mean over width and height of log(size80 / size20) of the sure candidates."""
    spreads = [np.zeros(0)]
    for candidates in read_predictions(folder, Candidates):
        log_ratio = np.log(candidates.size80 / candidates.size20).mean(1)
        spreads.append(log_ratio[candidates.score >= SURE])
    return np.concatenate(spreads)


def print_row(name: str, spreads: np.ndarray) -> None:
    low, middle, high = np.percentile(spreads, (25, 50, 75))
    print(
        f"{name:<34} {spreads.mean():.4f}   {middle:.4f} ({low:.4f} to {high:.4f})   "
        f"{len(spreads)} candidates"
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", type=Path, help="folder of the run, which step 04 has predicted")
    parser.add_argument("names", nargs="+", help="of its predictions, as --predictions gave them")
    arguments = parser.parse_args()
    run = RunFolder(arguments.run)
    print(f"log(size80 / size20), candidates of a score from {SURE}: mean, median (quartiles)")
    for name in arguments.names:
        of_folds = [log_spreads(run.fold(k).valid_predictions(name)) for k in run.trained_folds()]
        print_row(f"{name}: validation, one fold", np.concatenate(of_folds))
        print_row(f"{name}: test, all folds", log_spreads(run.test_predictions(name)))


if __name__ == "__main__":
    main()
