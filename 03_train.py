"""Step 3: train the folds.

    python 03_train.py                                              all folds of the paper's system
    python 03_train.py --fold 0 --encoder se_resnext50_32x4d        one fold, another encoder, a run folder of its own
    python 03_train.py --preset small --max-hours 8                 stop in time, go on with the same command
    torchrun --nproc-per-node 2 -- 03_train.py                      two GPUs, or two processes on a CPU

Reads working/<task>/train.csv and images/, writes working/<task>/<run>/fold<k>/: config.json, manifest.json, log.csv,
last.pt (everything needed to go on), epoch*.pt (the last epochs, for step 4), best.pt, TensorBoard events.
"""

from cxr.config import run_step
from cxr.steps.train.engine import train_folds
from cxr.tasks import TASKS


def step(task, config):
    return train_folds(task, config)


if __name__ == "__main__":
    run_step(step, __doc__, TASKS)
