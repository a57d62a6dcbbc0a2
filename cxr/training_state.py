"""The state of one fold's training: weights, their moving average, optimizer, schedule, place in the run."""

import math

import torch
from torch.optim.swa_utils import AveragedModel

from cxr.checkpoint import load_state, save_state
from cxr.disk import InputError


class Training:
    """Everything that changes while a fold trains, as one state that can be saved and loaded."""

    def __init__(self, task, config, fold, device, precision, steps_per_epoch, resuming):
        self.device, self.precision, self.config, self.fold = device, precision, config, fold
        torch.manual_seed(config.seed * 1000 + fold)
        self.model = task.build_model(config, load_weights=not resuming)
        self.model.to(device, memory_format=torch.channels_last)
        self.average = AveragedModel(self.model, multi_avg_fn=moving_average(config.ema), use_buffers=True) \
            if config.ema else None
        kind = torch.optim.AdamW if config.optimizer == "adamw" else torch.optim.Adam
        self.optimizer = kind(self.model.parameters(), config.lr, weight_decay=config.weight_decay,
                              fused=device.type in ("cuda", "cpu"))
        self.scheduler = make_scheduler(self.optimizer, config, steps_per_epoch)
        self.scaler = torch.amp.GradScaler(device.type, enabled=precision == "fp16")
        self.epoch, self.step, self.best, self.best_epoch, self.done = 0, 0, -math.inf, -1, False
        self.totals = {}

    def evaluated(self):
        """The weights that are validated and kept: the moving average where there is one."""
        return self.average.module if self.average else self.model

    def parts(self):
        parts = {"model": self.model, "optimizer": self.optimizer, "scheduler": self.scheduler, "scaler": self.scaler}
        return parts | ({"average": self.average} if self.average else {})

    def progress(self):
        return {name: getattr(self, name) for name in ("epoch", "step", "best", "best_epoch", "done", "totals")}

    def save(self, path):
        save_state(path, {name: part.state_dict() for name, part in self.parts().items()} | self.progress())

    def load(self, path):
        state = load_state(path, self.device)
        if not self.parts().keys() | self.progress().keys() <= state.keys():
            raise InputError(f"{path} is not a training state of this run: delete {path.parent} and run step 03 again")
        for name, part in self.parts().items():
            part.load_state_dict(state[name])
        for name in self.progress():
            setattr(self, name, state[name])


def step_schedule(state, results, term):
    """Step the schedule after an epoch with its results; `term` is the validation loss that `plateau` watches."""
    if state.config.schedule in ("plateau", "metric"):
        state.scheduler.step(results["metric" if state.config.schedule == "metric" else f"valid_{term}"])
    elif state.config.schedule != "cosine":
        state.scheduler.step()


def moving_average(decay):
    """Exponential moving average whose decay grows with the number of updates, so that short runs are not all past."""

    def update(averaged, current, updates):
        weight = 1 - min(decay, (1 + int(updates)) / (10 + int(updates)))
        for old, new in zip(averaged, current):
            old.lerp_(new, weight) if old.is_floating_point() else old.copy_(new)

    return update


def make_scheduler(optimizer, config, steps_per_epoch):
    """A schedule that is stepped after each epoch; `cosine` after each update."""
    schedules = torch.optim.lr_scheduler
    if config.schedule == "plateau":
        return schedules.ReduceLROnPlateau(optimizer, patience=4, factor=0.2)
    if config.schedule == "metric":  # of the 1st place of SIIM-ACR Pneumothorax
        return schedules.ReduceLROnPlateau(optimizer, "max", patience=2, factor=0.1, threshold=1e-7, min_lr=1e-7)
    if config.schedule == "waves":  # of its 1st and 4th: half a period falls, the other rises
        return schedules.CosineAnnealingLR(optimizer, 8, eta_min=0.01 * config.lr)
    if config.schedule == "restarts":  # of its 2nd
        return schedules.CosineAnnealingWarmRestarts(optimizer, 5, eta_min=0.01 * config.lr)
    if config.schedule == "constant":
        return schedules.ConstantLR(optimizer, factor=1.0)
    total = max(1, config.epochs * steps_per_epoch)
    warmup = max(1, round(0.03 * total))
    return torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: min(
        (step + 1) / warmup, 0.01 + 0.99 * (1 + math.cos(math.pi * min(1, step / total))) / 2))
