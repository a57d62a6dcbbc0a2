"""Runs whose networks have random weights, as steps 02 to 04 would have left them."""

import torch

from cxr.inference.checkpoint import save_state
from cxr.run_folder import RunFolder
from cxr.system.disk import write_json
from cxr.tasks import TASKS

SMALL = {
    "preset": "small",
    "run": "tiny",
    "folds": 2,
    "encoder": "tu-test_resnet",
    "weights": "none",
    "image_size": 64,
    "size": 96,
    "tta": "flip",
    "device": "cpu",
    "engine": "torch",
    "precision": "fp32",
    "workers": 0,
}


def write_untrained_run(working, task_name, params=None, **changes):
    """Settings of a run of two folds. params: content of params.json, if there is to be one."""
    task = TASKS[task_name]
    values = SMALL | {"task": task_name, "working": working} | changes
    settings = task.settings_of(values)
    run = RunFolder.of(settings.place)
    for number in range(2):
        torch.manual_seed(number)
        model = task.method.build_model(settings, task.used_labels(settings))
        state = {"task": task_name, "config": settings.plain(), "model": model.state_dict()}
        fold = run.fold(number)
        save_state(fold.epoch(1), state)
        save_state(fold.last, {"done": True})
        fold.write_config(settings.replace(fold=number).plain())
    write_json(run.task.preprocess_record, {"size": settings.data.size})
    if params is not None:
        write_json(run.judged().params, params)
    return settings
