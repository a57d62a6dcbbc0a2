"""Step 2: turn the X-rays into small PNGs and tables with folds.

    python 02_preprocess.py                                 input/<slug>/ to working/<task>/
    python 02_preprocess.py --input ../my/data --size 256   another source, smaller pictures
    python 02_preprocess.py --max-failed-share 0.2          go on although a fifth is broken

Writes working/<task>/: images/<image_id>.png, train.csv and test.csv, failed.csv, preprocess.json,
and two pictures to look at the data, overview.png and samples.png. Inside a Kaggle kernel the
attached data is read where it is mounted.
"""

from cxr.command_line import run_step
from cxr.settings import Settings
from cxr.tasks import Task


def step(task: Task, settings: Settings) -> None:
    from cxr.steps.preprocess.preprocess import preprocess  # after --help, which needs no PyTorch

    preprocess(task, settings)


if __name__ == "__main__":
    run_step("preprocess", step, __doc__)
