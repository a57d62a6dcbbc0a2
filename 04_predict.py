"""Step 4: predict the validation images by their fold's models, the test images by all models.

    python 04_predict.py                                    all folds, kept epochs and views
    python 04_predict.py --run NAME                         another run; its settings come from its
                                                            checkpoints
    python 04_predict.py --tta none --predictions plain     another variant, beside the first
    python 04_predict.py --run NAME --images FOLDER FILE    any DICOMs, PNGs, JPEGs; writes
                                                            predicted/index.html
    python 04_predict.py --run NAME --images FOLDER --watch  what arrives there, too
    python 04_predict.py --blend A=0.6 B=0.4 --run A+B      a mixture of finished runs, as a run
    torchrun --nproc-per-node 2 -- 04_predict.py            images are shared out over processes

Reads working/<task>/<run>/fold<k>/epoch*.pt, writes fold<k>/valid_predictions/ and
test_predictions/: what step 05 needs of each image, merged over models and views, in original
pixels.
"""

from cxr.command_line import run_step
from cxr.settings import Settings
from cxr.tasks import Task


def step(task: Task, settings: Settings) -> None:
    # After --help, which needs no PyTorch.
    from cxr.run_folder import RunFolder
    from cxr.steps.predict.blend_runs import blend_runs
    from cxr.steps.predict.predict_images import predict_images
    from cxr.steps.predict.predict_run import predict_run
    from cxr.steps.predict.watch_images import watch_images

    if settings.images.watch:
        watch_images(task, settings)
    elif settings.images.images:
        predict_images(task, settings)
    elif settings.prediction.blend or RunFolder.of(settings.place).blend.exists():
        blend_runs(task, settings)
    else:
        predict_run(task, settings)


if __name__ == "__main__":
    run_step("predict", step, __doc__)
