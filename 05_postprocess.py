"""Step 5: search the post-processing on out-of-fold predictions, write submission.csv and report.html.

    python 05_postprocess.py                                search, params.json, submission.csv, report.html
    python 05_postprocess.py --fit-on testlike              fit on the images that are labelled like the test set
    python 05_postprocess.py --submit "four folds"          also send submission.csv to Kaggle
    python 05_postprocess.py --compare paper paper-encoder=se_resnext50_32x4d     runs side by side: compare.html
    python 05_postprocess.py --compare all                  every run of the task

The printed score is honest: every image is judged with parameters that were fitted without its fold. A task that is no
Kaggle competition gets results in its own format, test_results/ and valid_results/, instead of submission.csv.
"""

from cxr.config import run_step
from cxr.run_folder import TaskFolder
from cxr.steps.postprocess.compare import compare, find_runs
from cxr.steps.postprocess.postprocess import postprocess
from cxr.system.kaggle import submit
from cxr.tasks import TASKS


def step(task, config):
    if config.compare:
        task_folder = TaskFolder(config.task_dir)
        runs = find_runs(task_folder, config.compare)
        print("wrote", compare(runs, task_folder.path / "compare.html"))
        return
    submission = postprocess(task, config)
    if config.submit:
        submit(task.slug, submission, config.submit)


if __name__ == "__main__":
    run_step(step, __doc__, TASKS)
