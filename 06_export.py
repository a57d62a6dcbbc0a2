"""Step 6, if wanted: a run as one ONNX file for machines without PyTorch; edge_predict.py uses it.

    python 06_export.py                         the last checkpoints of all folds, merged: merged.onnx, merged.int8.onnx
    python 06_export.py --fold 0                one network, a quarter of the time on the device: fold0.onnx, ...
    python 06_export.py --checkpoints 3         three checkpoints of each fold
    python 06_export.py --tta none              without the mirrored view: half the time

Needs step 05, whose thresholds go into the file. Writes working/<task>/<run>/: the file in fp32 and in int8, and beside
them a .json with their score on validation images. Give the flags of the training, or --run NAME, to name the run.
"""

from cxr.config import run_step
from cxr.steps.export.export import export_run
from cxr.tasks import TASKS
from edge_predict import Predictor


def step(task, config):
    export_run(task, config, Predictor)


if __name__ == "__main__":
    run_step(step, __doc__, TASKS)
