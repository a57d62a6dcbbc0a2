"""The benchmark that looks for a leak on labels that are noise."""

import sys
from pathlib import Path

import cv2
import numpy as np
import pandas as pd

from cxr.geometry.masks import decode_runs

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))

import external_noise


def test_half_of_the_images_have_the_disc(tmp_path):
    source = tmp_path / "source"
    (source / "dicom-images-train").mkdir(parents=True)
    table = pd.DataFrame({"ImageId": ["a", "b", "b", "c", "d"], "EncodedPixels": "-1"})
    table.to_csv(source / "stage_2_train.csv", index=False)
    external_noise.write_noise(source, tmp_path / "copy", seed=0)
    noise = pd.read_csv(tmp_path / "copy" / "stage_2_train.csv")
    assert noise["ImageId"].tolist() == ["a", "b", "c", "d"], "once, whatever it had"
    has_disc = noise["EncodedPixels"] != "-1"
    assert has_disc.sum() == 2
    mask = decode_runs(noise["EncodedPixels"][has_disc].iloc[0], 1024, 1024)
    assert mask[512, 512] and not mask[0, 0]
    assert abs(mask.mean() - np.pi / 16) < 1e-3
    assert (tmp_path / "copy" / "dicom-images-train").resolve() == source / "dicom-images-train"


def test_second_pictures_are_others(tmp_path):
    (tmp_path / "stored").mkdir()
    picture = np.random.default_rng(0).integers(0, 255, (64, 64)).astype(np.uint8)
    cv2.imwrite(str(tmp_path / "stored" / "a.png"), picture)
    external_noise.write_external(tmp_path / "stored", tmp_path / "external")
    other = cv2.imread(str(tmp_path / "external" / "0.png"), cv2.IMREAD_GRAYSCALE)
    assert other.shape == picture.shape
    assert (other != picture).any()


def test_misled_folds_hold_the_next_ones_models(tmp_path):
    for fold in range(external_noise.FOLDS):
        (tmp_path / "run" / f"fold{fold}").mkdir(parents=True)
        (tmp_path / "run" / f"fold{fold}" / "epoch001.pt").write_text(str(fold))
    external_noise.lead_astray(tmp_path / "run", tmp_path / "misled")
    found = [(tmp_path / "misled" / f"fold{fold}" / "epoch001.pt").read_text() for fold in (0, 1)]
    assert found == ["1", "0"]
