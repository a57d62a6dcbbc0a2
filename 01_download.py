"""Step 1: get the data set into input/<slug>/.

    python 01_download.py                     download from Kaggle, or say what is missing for that
    python 01_download.py --input ../my/data  use ../my/data/<slug>/, which must be there
    python 01_download.py --demo              draw a synthetic data set in the same format into
                                              input/demo/<slug>/

What is already there is kept. A data set that is not on Kaggle is put into input/<slug>/ by hand,
zips and all; this step unpacks it, or tells where it comes from. Inside a Kaggle kernel the
attached data is used, nothing is downloaded.
"""

from cxr.command_line import run_step
from cxr.settings import Settings
from cxr.tasks import Task


def step(task: Task, settings: Settings) -> None:
    from cxr.steps.download.download import obtain  # after --help, which needs no PyTorch

    obtain(task.dataset, settings.place, settings.data.demo_images)


if __name__ == "__main__":
    run_step("download", step, __doc__)
