"""Step 2: turn the X-rays into small PNGs and tables with folds.

    python 02_preprocess.py                                 input/<slug>/ to working/<task>/
    python 02_preprocess.py --input ../my/data --size 256   another source, smaller pictures
    python 02_preprocess.py --max-failed-share 0.2          go on although a fifth of the files is broken

Writes working/<task>/: images/<image_id>.png, train.csv and test.csv, failed.csv, preprocess.json, and two pictures to
look at the data, overview.png and samples.png. Inside a Kaggle kernel the attached data is read where it is mounted.
"""

from dataclasses import replace

from cxr.config import run_step
from cxr.data.preparation import prepare
from cxr.plots.data_overview import write_overview
from cxr.system.kaggle import find_input
from cxr.tasks import TASKS


def step(task, config):
    mounted = find_input(config.input, task.slug, task.expected_files)
    if mounted:
        config = replace(config, input=mounted.parent)
    prepare(task, config)
    write_overview(config.task_dir, task.class_names, box_classes=task.box_classes)
    print(f"to look at the data: {config.task_dir / 'overview.png'} and samples.png beside it")


if __name__ == "__main__":
    run_step(step, __doc__, TASKS)
