"""A page on this machine: drop X-rays on it and see what a run finds in them. Not for diagnosis.

    python serve.py --run NAME                  the page of a trained run, on
                                                http://127.0.0.1:8000/
    python serve.py --run NAME --port 8080      another port
    python serve.py --demo --tta none           the demo's run, without the flipped view: twice as
                                                fast
    python serve.py --run NAME --host 10.0.0.7  other machines reach it, with the token that is
                                                printed
    python serve.py --run NAME --dicom-port 11112 --out FOLDER --send-to PACS@10.0.0.2:104
                                                X-rays that arrive by DICOM are predicted into
                                                FOLDER, and their reports are sent to an archive

Without --host only this machine can reach either, and nothing leaves it without --send-to: uploads
are deleted when they are answered. The settings of step 05 (params.json) are used if it was run.
"""

from cxr.command_line import run_step
from cxr.settings import Settings
from cxr.tasks import Task


def step(task: Task, settings: Settings) -> None:
    # After --help, which needs no PyTorch.
    from cxr.inference.predictor import Predictor
    from cxr.steps.predict.received import receiving
    from cxr.steps.serve.serve import serve

    predictor = Predictor(task, settings)
    predictor.introduce()
    with receiving(predictor, settings):
        serve(predictor, settings)


if __name__ == "__main__":
    run_step("serve", step, __doc__)
