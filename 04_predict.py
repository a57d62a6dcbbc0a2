"""Step 4: predict the validation images of each fold with that fold's models, and the test images with all models.

    python 04_predict.py                                    all folds, kept epochs and views of the default run
    python 04_predict.py --run NAME                         another run; its settings come from its checkpoints
    python 04_predict.py --tta none --predictions plain     another variant, kept beside the first
    python 04_predict.py --run NAME --images FOLDER FILE    any DICOMs, PNGs, JPEGs; writes predicted/index.html
    torchrun --nproc-per-node 2 -- 04_predict.py            images are shared out over the processes

Reads working/<task>/<run>/fold<k>/epoch*.pt, writes fold<k>/valid_predictions/ and test_predictions/: for each image
the anchors above a low score, merged over models and views, in original pixels.
"""

from cxr.config import run_step
from cxr.inference.run import predict_run
from cxr.steps.predict.predict_images import predict_images
from cxr.tasks import TASKS


def step(task, config):
    if config.images:
        predict_images(task, config)
    else:
        predict_run(task, config)


if __name__ == "__main__":
    run_step(step, __doc__, TASKS)
