"""Inputs of a report and folders of trained runs, made up."""

import json

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from cxr.run_folder import RunFolder
from cxr.steps.postprocess.report import ReportInput

NAN = float("nan")
# A page with any of these is not self-contained.
OUTSIDE = r"""(?:src|href)=["'](?!data:|#)|url\(|@import|<script[^>]+src"""


def image_table(n, **columns):
    """n images without findings, on which nothing was predicted, except for the columns given."""
    usual = {
        "image_id": [f"id{i:05d}" for i in range(n)],
        "fold": np.arange(n) % 4,
        "score": NAN,
        "n_true": 0,
        "n_pred": 0,
        "best_score": 0.0,
        "age": NAN,
        "sex": NAN,
        "view": NAN,
        "label": NAN,
        "predicted": NAN,
        "png": NAN,
        "width": 1000,
        "height": 800,
        "group": NAN,
        "caption": NAN,
    }
    return pd.DataFrame(usual | columns)


def report_input(images, **fields):
    usual = dict(
        title="Chest findings",
        score_name="Mean precision",
        score=0.25,
        interval=(0.2, 0.3),
        n_images=len(images),
        n_counted=int(images["score"].notna().sum()),
        how="Measured on other folds.",
        images=images,
    )
    return ReportInput(**(usual | fields))


def write_run(folder, folds=(0, 1), epochs=3, metric=0.2, **config):
    """The records of a trained run; `config`: more of its settings."""
    run = RunFolder(folder)
    epoch = np.arange(1, epochs + 1)
    for fold in folds:
        run.fold(fold).path.mkdir(parents=True)
        log = pd.DataFrame(
            {
                "epoch": epoch,
                "lr": 1e-3,
                "train_loss": 1 / epoch,
                "valid_loss": 1.2 / epoch,
                "train_box": 0.5 / epoch,
                "valid_box": 0.6 / epoch,
                "metric": metric * epoch / epochs,
                "seconds": 10.0 + fold,
            }
        )
        log.to_csv(run.fold(fold).log, index=False)
        settings = {"fold": fold, "encoder": "resnet18", "lr": 1e-3} | config
        run.fold(fold).config.write_text(json.dumps(settings))
        manifest = {"python": "3.11.9", "torch": "2.9.0", "date": f"2026-01-0{fold + 1}"}
        run.fold(fold).manifest.write_text(json.dumps(manifest))
    return run


def drawn(panel):
    """An axis with the panel in it."""
    axis = Figure().add_subplot()
    panel.fill(axis)
    return axis
