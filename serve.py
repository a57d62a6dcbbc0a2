"""A page on this machine: drop X-rays on it and see what a run finds in them. Not for diagnosis.

    python serve.py --run NAME                  the page of a trained run, on
                                                http://127.0.0.1:8000/
    python serve.py --run NAME --port 8080      another port
    python serve.py --demo --tta none           the demo's run, without the flipped view: twice as
                                                fast

Only this machine can reach the page, and nothing leaves it: uploads are deleted when they are
answered. The settings of step 05 (params.json) are used if it was run.
"""

from cxr.command_line import run_step
from cxr.settings import Settings
from cxr.tasks import Task


def step(task: Task, settings: Settings) -> None:
    from cxr.steps.serve.serve import serve  # after --help, which needs no PyTorch

    serve(task, settings)


if __name__ == "__main__":
    run_step("serve", step, __doc__)
