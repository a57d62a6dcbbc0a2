"""Step 6, if wanted: a run as one file, for machines without PyTorch or for other people.

    python 06_export.py                         the last checkpoints of all folds, merged:
                                                merged.onnx, merged.int8.onnx
    python 06_export.py --fold 0                one network, a quarter of the time on the device:
                                                fold0.onnx, fold0.int8.onnx
    python 06_export.py --checkpoints 3         three checkpoints of each fold
    python 06_export.py --tta none              without the mirrored view: half the time
    python 06_export.py --ncnn                  merged.ncnn.param and .bin beside them, for ncnn
    python 06_export.py --zip                   <run>.zip, for --run FILE.zip of 04, 06 and serve.py
    python 06_export.py --zip --half            the same with weights in half precision

Boxes, masks and classes alike. Needs step 05, whose thresholds go into the file; classes need none.
Writes working/<task>/<run>/: the ONNX file, which edge_predict.py reads, in fp32 and in int8, and
beside them a .json with their score on validation images; or the .zip. Give the flags of the
training, or --run NAME, to name the run.
"""

from cxr.command_line import run_step
from cxr.settings import Settings
from cxr.tasks import Task


def step(task: Task, settings: Settings) -> None:
    # After --help, which needs no PyTorch.
    from cxr.steps.export.archive import archive_run
    from cxr.steps.export.export import export_run
    from edge_predict import open_predictor, why_not_engine

    if settings.extra.zip:
        archive_run(task, settings)
    else:
        export_run(task, settings, open_predictor, why_not_engine)


if __name__ == "__main__":
    run_step("export", step, __doc__)
