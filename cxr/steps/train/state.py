"""The state of one fold's training: weights, their moving average, optimizer, schedule, place in the run."""

import math
from pathlib import Path

import torch
from torch.optim.swa_utils import AveragedModel

from cxr.inference.checkpoint import first_line, load_state, save_state
from cxr.methods.segmenter.mean_teacher import teacher_decay
from cxr.steps.train.pretraining import learned_weights
from cxr.steps.train.schedules import make_scheduler
from cxr.system.device import training_format
from cxr.system.disk import InputError

MOMENTUM = 0.9  # of SGD, the usual value


class Training:
    """Everything that changes while a fold trains, as one state that can be saved and loaded."""

    def __init__(self, task, config, fold, device, precision, updates, resuming):
        self.device, self.precision, self.config, self.fold = device, precision, config, fold
        torch.manual_seed(config.seed * 1000 + fold)
        given = config.start or config.pretrain
        self.model = task.build_model(config, load_weights=not (resuming or given))
        if given and not resuming:
            load_start(self.model, config, fold)
        self.model.to(device, memory_format=training_format(device, precision))
        update = moving_average(self.decay, lambda: int(self.average.n_averaged))
        self.average = (
            AveragedModel(self.model, multi_avg_fn=update, use_buffers=True)
            if config.ema or config.unlabelled
            else None
        )
        self.optimizer = make_optimizer(self.model.parameters(), config, device)
        self.scheduler = make_scheduler(self.optimizer, config, updates)
        self.scaler = torch.amp.GradScaler(device.type, enabled=precision == "fp16")
        self.epoch, self.step, self.best, self.best_epoch, self.done = 0, 0, -math.inf, -1, False
        self.totals, self.moment = (
            {},
            0.0,
        )  # moment: epochs since the start, with the present one's part

    def evaluated(self):
        """The weights that are validated and kept: the moving average where one is asked for. (The 5th place of
        SIIM-ACR Pneumothorax kept the student of its mean teacher.)"""
        return self.average.module if self.config.ema else self.model

    def decay(self, updates):
        """Decay of the average, which a mean teacher has its own way to choose. It grows with the number of updates,
        so that short runs are not all past."""
        if self.config.unlabelled:
            return teacher_decay(self.moment, updates)
        averaging = self.epoch + 1 >= self.config.ema_from
        return min(self.config.ema, (1 + updates) / (10 + updates)) if averaging else 0.0

    def parts(self):
        parts = {
            "model": self.model,
            "optimizer": self.optimizer,
            "scheduler": self.scheduler,
            "scaler": self.scaler,
        }
        return parts | ({"average": self.average} if self.average else {})

    def progress(self):
        return {
            name: getattr(self, name)
            for name in ("epoch", "step", "best", "best_epoch", "done", "totals")
        }

    def save(self, path):
        save_state(
            path, {name: part.state_dict() for name, part in self.parts().items()} | self.progress()
        )

    def load(self, path):
        state = load_state(path, self.device)
        if not self.parts().keys() | self.progress().keys() <= state.keys():
            raise InputError(
                f"{path} is not a training state of this run: delete {path.parent} and run step 03 again"
            )
        for name, part in self.parts().items():
            part.load_state_dict(state[name])
        for name in self.progress():
            setattr(self, name, state[name])


def make_optimizer(parameters, config, device):
    kind = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW, "sgd": torch.optim.SGD}[
        config.optimizer
    ]
    more = {"momentum": MOMENTUM} if config.optimizer == "sgd" else {}
    return kind(
        parameters,
        config.lr,
        weight_decay=config.weight_decay,
        fused=device.type in ("cuda", "cpu"),
        **more,
    )


def moving_average(decay, count):
    """For AveragedModel, which asks for tensors of one type at a time: an exponential moving average with the decay
    `decay(updates)`, of count() updates so far. (It gives their number, too, but on the device, which the host would
    have to wait for.)"""

    def update(averaged, current, _):
        if averaged[0].is_floating_point():
            torch._foreach_lerp_(averaged, current, 1 - decay(count()))
        else:
            torch._foreach_copy_(averaged, current)

    return update


def load_start(model, config, fold):
    """The weights of --start, a checkpoint or the last epoch of the same fold of another run, or of --pretrain.

    Raises InputError where there are none or they do not fit.
    """
    path = start_path(config, fold)
    state = load_state(path)
    if "model" not in state:
        raise InputError(f"{path} is no checkpoint of step 03: choose an epoch*.pt or best.pt")
    if config.task_dir.resolve() in path.resolve().parents and state.get("fold", fold) != fold:
        raise InputError(
            f"{path} has learned the validation images of fold {fold}: give --fold {state['fold']}, or "
            "the name of its run instead of a file"
        )
    try:
        model.load_state_dict(state["model"])
    except RuntimeError as error:  # torch names the first hundred tensors
        raise InputError(
            f"{path} fits another network ({first_line(error)}): start from a run with the same "
            "network"
        ) from error


def start_path(config, fold):
    if not config.start:
        return learned_weights(config)
    if Path(config.start).is_file():
        return Path(config.start)
    folder = config.task_dir / config.start / f"fold{fold}"
    paths = sorted(folder.glob("epoch*.pt"))
    if not paths:
        raise InputError(
            f"--start {config.start} is neither a file nor a run with checkpoints in {folder}: train that "
            "run first"
        )
    return paths[-1]
