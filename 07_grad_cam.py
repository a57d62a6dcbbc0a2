"""Step 7, if wanted: where a classifier looked, as heat maps (Grad-CAM), and how much of that lies
on the lungs.

    python 07_grad_cam.py --task covid --run NAME       out-of-fold studies, right and wrong ones
    python 07_grad_cam.py --task covid --run NAME --lungs-run LUNGS
                                                        and the share on the lungs that LUNGS finds
    python 07_grad_cam.py --task covid --run NAME --lungs-run LUNGS --images FOLDER --out looked
                                                        any X-rays
    python 07_grad_cam.py --task covid --compare NAME NAME
                                                        shares of runs that were looked at

Needs step 04. Writes working/<task>/<run>/heat_maps/: a picture of each case, sheet.png, and
grad_cam.json with the share of each map inside the lungs and the marked opacities. Step 05, run
again, shows them in report.html.
"""

from cxr.command_line import run_step
from cxr.settings import Settings
from cxr.tasks import Task


def step(task: Task, settings: Settings) -> None:
    # After --help, which needs no PyTorch.
    from cxr.steps.grad_cam.heat_maps import compare_shares, look, look_at_files

    if settings.judging.compare:
        print(compare_shares(settings))
    elif settings.images.images:
        print("to look at:", look_at_files(task, settings))
    else:
        print("to look at:", look(task, settings))


if __name__ == "__main__":
    run_step("grad_cam", step, __doc__)
