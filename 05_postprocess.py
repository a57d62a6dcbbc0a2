"""Step 5: search the post-processing out of fold, write submission.csv and report.html.

    python 05_postprocess.py                                search, params.json, submission.csv,
                                                            report.html
    python 05_postprocess.py --fit-on testlike              fit on the images that are labelled like
                                                            the test set
    python 05_postprocess.py --submit "four folds"          also send submission.csv to Kaggle
    python 05_postprocess.py --compare NAME NAME            runs side by side: compare.html
    python 05_postprocess.py --compare all                  every run of the task

The printed score is honest: every image is judged with parameters that were fitted without its
fold. A task that is no Kaggle competition gets results in its own format, test_results/ and
valid_results/, instead of submission.csv.
"""

from cxr.command_line import run_step
from cxr.settings import Settings
from cxr.tasks import Task


def step(task: Task, settings: Settings) -> None:
    # After --help, which needs no PyTorch.
    from cxr.run_folder import TaskFolder
    from cxr.steps.postprocess.compare import compare_runs, find_runs
    from cxr.steps.postprocess.postprocess import postprocess
    from cxr.system.kaggle import submit

    if settings.judging.compare:
        folder = TaskFolder.of(settings.place)
        runs = find_runs(folder, settings.judging.compare)
        print("wrote", compare_runs(task, runs, folder.path / "compare.html"))
        return
    submission = postprocess(task, settings)
    if settings.judging.submit and submission:
        submit(task.dataset.slug, submission, settings.judging.submit)


if __name__ == "__main__":
    run_step("postprocess", step, __doc__)
