"""Step 3: train the folds.

    python 03_train.py                                              all folds of the paper's system
    python 03_train.py --fold 0 --encoder se_resnext50_32x4d        one fold, another encoder, a
                                                                    run folder of its own
    python 03_train.py --preset small --max-hours 8                 stop in time, go on with the
                                                                    same command
    torchrun --nproc-per-node 2 -- 03_train.py                      two GPUs, or two processes

Reads working/<task>/train.csv and images/, writes working/<task>/<run>/fold<k>/: config.json,
manifest.json, log.csv, last.pt (everything needed to go on), epoch*.pt (the last epochs, for step
4), best.pt, TensorBoard events.
"""

from cxr.command_line import run_step
from cxr.settings import Settings
from cxr.tasks import Task


def step(task: Task, settings: Settings) -> int:
    from cxr.steps.train.engine import train_folds  # after --help, which needs no PyTorch

    return train_folds(task, settings)


if __name__ == "__main__":
    run_step("train", step, __doc__)
