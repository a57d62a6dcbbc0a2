"""Step 3: train the folds.

    python 03_train.py                                              all folds of the paper's system
    python 03_train.py --fold 0 --encoder se_resnext50_32x4d        one fold, another encoder, a
                                                                    run folder of its own
    python 03_train.py --preset small --max-hours 8                 stop in time, go on with the
                                                                    same command
    torchrun --nproc-per-node 2 -- 03_train.py                      two GPUs, or two processes
    python 03_train.py --search search.yaml                         try values of settings, train
                                                                    the best (docs/search.md)

Reads working/<task>/train.csv and images/, writes working/<task>/<run>/fold<k>/: config.json,
manifest.json, log.csv, last.pt (everything needed to go on), epoch*.pt (the last epochs, for step
4), best.pt, TensorBoard events.
"""

from cxr.command_line import run_step
from cxr.settings import Settings
from cxr.tasks import Task


def step(task: Task, settings: Settings) -> int:
    # After --help, which needs no PyTorch.
    from cxr.steps.train.engine import train_folds
    from cxr.steps.train.search import search_settings

    if settings.training.search:
        return search_settings(task, settings)
    return train_folds(task, settings)


if __name__ == "__main__":
    run_step("train", step, __doc__)
