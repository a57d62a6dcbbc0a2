"""Step 7, if wanted: where a classifier looked, as heat maps (Grad-CAM), and how much of them lies on the lungs.

    python 07_grad_cam.py --task covid --run NAME                            out-of-fold studies, right and wrong ones
    python 07_grad_cam.py --task covid --run NAME --lungs-run LUNGS          and the share on the lungs, which it finds
    python 07_grad_cam.py --task covid --run NAME --lungs-run LUNGS --images FOLDER --out looked      any X-rays
    python 07_grad_cam.py --task covid --compare WITHOUT WITH                shares of runs that were looked at

Needs step 04. Writes working/<task>/<run>/heat_maps/: a picture of each case, sheet.png, and grad_cam.json with the
share of each map inside the lungs and the marked opacities. Step 05, run again, shows them in report.html.
"""

from cxr.config import run_step
from cxr.steps.grad_cam.heat_maps import compare_shares, look, look_at_files
from cxr.tasks import TASKS


def step(task, config):
    if config.compare:
        print(compare_shares(config))
    else:
        print("to look at:", (look_at_files if config.images else look)(task, config))


if __name__ == "__main__":
    run_step(step, __doc__, TASKS)
