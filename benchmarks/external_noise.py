"""Do the labels that a run gives to external images leak into its out-of-fold score?

    python benchmarks/external_noise.py --input ../shared/data       some minutes on two cores

Real X-rays of the pneumothorax data set get labels that are pure noise: half of them, drawn by lot,
have the same disc as their mask. A network can learn them by heart and know nothing of others, so a
score above chance can only be a leak. External images are the same X-rays, zoomed and turned, so
that they count as no copies: the second picture of a patient, as the NIH's images hold it.

Three runs: `teacher` learns the noise; `honest` learns, too, what the teacher's models of the same
fold say of the external images, as step 03 does it; `leaky` what those of the next fold say, which
have learned this fold's labels. Chance is about a half.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import cv2  # noqa: E402
import numpy as np  # noqa: E402
import pandas as pd  # noqa: E402

from cxr.data.dataset import read_png  # noqa: E402
from cxr.geometry.masks import encode_runs  # noqa: E402
from cxr.system.disk import read_json  # noqa: E402

DATA_SET = "siim-acr-pneumothorax-segmentation"
FOLDS = 2
SIDE = 1024  # of the frame that masks are coded in
ZOOM = 1.05
TURN = 4  # degrees
SETTINGS = ("--task", "pneumothorax", "--preset", "demo", "--folds", str(FOLDS))
LEARN_BY_HEART = ("--epochs", "120", "--augmentation", "1", "--keep", "1")


def write_noise(source: Path, copy: Path, seed: int) -> None:
    """A data set of the same X-rays whose labels are drawn by lot."""
    copy.mkdir(parents=True)
    images = pd.read_csv(source / "stage_2_train.csv")["ImageId"].unique()
    (copy / "dicom-images-train").symlink_to((source / "dicom-images-train").resolve())
    y, x = np.mgrid[:SIDE, :SIDE]
    disc = encode_runs(((x - SIDE / 2) ** 2 + (y - SIDE / 2) ** 2 < (SIDE / 4) ** 2).astype("u1"))
    has_disc = np.arange(len(images)) % 2 == 0
    np.random.default_rng(seed).shuffle(has_disc)
    table = pd.DataFrame({"ImageId": images, "EncodedPixels": np.where(has_disc, disc, "-1")})
    table.to_csv(copy / "stage_2_train.csv", index=False)


def write_external(stored: Path, folder: Path) -> None:
    """The stored X-rays, zoomed and turned."""
    folder.mkdir()
    for number, path in enumerate(sorted(stored.glob("*.png"))):
        picture = read_png(path)
        height, width = picture.shape
        warp = cv2.getRotationMatrix2D((width / 2, height / 2), TURN, ZOOM)
        cv2.imwrite(str(folder / f"{number}.png"), cv2.warpAffine(picture, warp, (width, height)))


def lead_astray(run: Path, leaky: Path) -> None:
    """The same run with each fold's models in the place of the fold before: they have learned its
    labels."""
    shutil.copytree(run, leaky)
    for fold in range(FOLDS):
        shutil.rmtree(leaky / f"fold{fold}")
        shutil.copytree(run / f"fold{(fold + 1) % FOLDS}", leaky / f"fold{fold}")


def do(step: str, *flags: str) -> None:
    done = subprocess.run([sys.executable, ROOT / step, *SETTINGS, *flags])
    if done.returncode:
        raise SystemExit(done.returncode)


def learn(run: str, places: tuple[str, ...], *flags: str) -> None:
    for step in ("03_train.py", "04_predict.py", "05_postprocess.py"):
        do(step, *places, "--run", run, *LEARN_BY_HEART, *flags)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--input", type=Path, required=True, help="holds the real data set")
    parser.add_argument("--seed", type=int, default=0, help="[0]")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_noise(arguments.input / DATA_SET, folder / "input" / DATA_SET, arguments.seed)
        places = ("--input", str(folder / "input"), "--working", str(folder / "working"))
        do("02_preprocess.py", *places)
        learn("teacher", places)
        runs = folder / "working" / "pneumothorax"
        write_external(runs / "images", folder / "external")
        lead_astray(runs / "teacher", runs / "misled")
        external = ("--external", str(folder / "external"))
        learn("honest", places, "--pseudo", "teacher", *external)
        learn("leaky", places, "--pseudo", "misled", *external)
        for run in ("teacher", "honest", "leaky"):
            results = read_json(runs / run / "results.json")
            auc = results["AUC of the image score"]
            low, high = results["interval"]
            print(
                f"{run:<8} out-of-fold Dice {results['score']:.3f} ({low:.3f} to {high:.3f}), AUC "
                f"{auc:.3f}"
            )


if __name__ == "__main__":
    main()
