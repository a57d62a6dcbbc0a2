"""Every setting, once: the frozen dataclass is the command line of all five steps.

All steps accept all flags, so `run_all.sh FLAGS` hands the same words to each. A preset is a set of values of one
task (`Task.presets`); flags override it. The name of a run is the preset plus the training settings that differ from
it, so runs with other settings never share a folder and step 04 finds what step 03 wrote from the same flags.
"""

import argparse
import dataclasses
import errno
import sys
import typing
from dataclasses import dataclass, field, fields
from pathlib import Path

from cxr.disk import InputError

STOPPED = 75  # exit status "stopped by --max-hours, run again" (EX_TEMPFAIL of sysexits.h)


def setting(default, reason, training=False, choices=None):
    """One field of Config: its default, why it exists, and whether it changes the trained weights."""
    return field(default=default, metadata={"reason": reason, "training": training, "choices": choices})


@dataclass(frozen=True)
class Config:
    task: str = setting("rsna", "which data set and competition")
    preset: str = setting("", "a named set of values: paper (default), small (hundreds of images, two CPU cores), demo")
    demo: bool = setting(False, "synthetic data in input/demo, results in working/demo, preset demo")
    input: Path = setting(Path("input"), "folder that holds the data set's folder; never written except by step 01")
    working: Path = setting(Path("working"), "everything the steps write goes below this folder")
    run: str = setting("", "name of the run's folder; default: the preset and what differs from it in training")
    fold: int | None = setting(None, "only this fold, counted from 0; default: all folds")
    folds: int = setting(4, "number of folds; the 2nd place used 4")
    seed: int = setting(42, "seed of folds, weights, sampling and augmentation; 42 made the published folds", True)
    workers: int = setting(-1, "processes that load images; -1: one for each core, 2 at least, 8 at most")
    demo_images: int = setting(160, "number of synthetic training images of --demo")

    size: int = setting(512, "side of the stored PNGs in pixels; the paper found 256 too small and 1024 impractical")
    max_failed_share: float = setting(0.05, "step 02 ends with an error if more than this share of the images fails")

    encoder: str = setting("se_resnext101_32x4d", "an encoder of segmentation-models-pytorch, or tu-NAME of timm", True)
    weights: str = setting("imagenet", "imagenet, pretrainedmodels, none (random), or a file with a state dict", True)
    levels: str = setting("2-7", "pyramid levels; level 2 is the paper's addition for small boxes", True)
    channels: int = setting(256, "channels of the pyramid and heads; 256 as in RetinaNet", True)
    head_convs: int = setting(4, "3x3 convolutions in each head; 4 as in RetinaNet", True)
    head_norm: str = setting("none", "group normalisation in the heads: none as published, group helps random weights",
                             True, ("none", "group"))
    classes: int = setting(0, "only the first so many box classes of the task's list; 0: all of them", True)
    dropout: float = setting(0.75, "dropout before the class and the global output; 0.75 in the best model", True)

    image_size: int = setting(512, "side of the network's input in pixels", True)
    epochs: int = setting(12, "passes over the training folds", True)
    batch_size: int = setting(4, "images in a step and process", True)
    accumulate: int = setting(1, "steps whose gradients are added before one update", True)
    optimizer: str = setting("adam", "adam as published; adamw decouples the weight decay", True, ("adam", "adamw"))
    lr: float = setting(1e-5, "learning rate; 1e-5 suits pretrained weights, random ones need 3e-4 to 1e-3", True)
    weight_decay: float = setting(0.0, "weight decay", True)
    schedule: str = setting("plateau", "plateau: x0.2 after 4 epochs without a lower validation box loss; "
                            "cosine: per step to 1 %% after a warm-up of 3 %%", True, ("plateau", "cosine"))
    clip: float = setting(0.05, "gradient norm is clipped here; 0.05 as published", True)
    freeze_epochs: int = setting(1, "first epochs with a frozen encoder, only if it is pretrained", True)
    class_weight: float = setting(1.0, "weight of the anchor class loss; 0 and --global-weight 0: boxes only", True)
    divide_by: str = setting("image", "whose positive anchors divide the detection losses: each image's as published, "
                             "or their running mean, which suits random weights", True, ("image", "running"))
    global_weight: float = setting(0.1, "weight of the image class loss", True)
    augmentation: str = setting("20", "level: 1 none, 10 light, 11 = 10 without rotation, 15, 20 heavy, "
                                "21 = 20 without rotation", True, ("1", "10", "11", "15", "20", "21"))
    ema: float = setting(0.0, "decay of the moving average of the weights that is evaluated and kept; 0 is off", True)
    keep: int = setting(3, "the last epochs whose checkpoints are kept for merging", True)
    patience: int = setting(0, "stop a fold after this many epochs without a better metric; 0: never", True)
    max_hours: float = setting(0.0, "stop training cleanly after this many hours, to be resumed; 0: no limit")
    save_minutes: float = setting(10.0, "state is saved this often inside an epoch, too")
    device: str = setting("auto", "auto, cpu, cuda, cuda:1, mps")
    precision: str = setting("auto", "auto: bf16 where the processor has it, fp16 on older GPUs, else fp32",
                             choices=("auto", "fp32", "bf16", "fp16"))
    compile: bool = setting(False, "torch.compile the network; costs minutes at the start")

    predictions: str = setting("predictions", "name of the prediction folders, to keep several variants side by side")
    tta: str = setting("flip", "views that are merged: none, flip, or flip+scale (adds x1.26 and /1.26)",
                       choices=("none", "flip", "flip+scale"))
    checkpoints: int = setting(0, "merge only the last so many kept checkpoints; 0: all that were kept")
    partial: bool = setting(False, "predict with folds whose training is not finished")

    fit_on: str = setting("folds", "where step 05 fits its parameters: folds (nested), or testlike (the 1,000 images "
                          "labelled like the test set)", choices=("folds", "testlike"))
    submit: str = setting("", "send submission.csv to Kaggle with this message")
    compare: tuple[str, ...] = setting((), "names of runs to show side by side, instead of post-processing one")

    images: tuple[str, ...] = setting((), "step 04: predict these files and folders of X-rays, not the data set's")
    out: Path = setting(Path("predicted"), "folder for what --images gives: tables, pictures, index.html")
    dicom_sr: bool = setting(False, "with --images, write a DICOM Structured Report for each DICOM, too")
    port: int = setting(8000, "port of the local page of serve.py")

    explicit: tuple[str, ...] = ()  # no flag: the settings that were given on the command line

    @property
    def task_dir(self):
        return self.working / self.task

    @property
    def run_dir(self):
        return self.task_dir / self.run

    def fold_dir(self, fold):
        return self.run_dir / f"fold{fold}"

    def wanted_folds(self):
        """The folds to work on. Raises InputError for a fold that does not exist."""
        if self.fold is None:
            return list(range(self.folds))
        if not 0 <= self.fold < self.folds:
            raise InputError(f"--fold {self.fold} does not exist: there are {self.folds} folds, 0 to {self.folds - 1}")
        return [self.fold]

    def training_settings(self):
        """The settings that decide the trained weights, as plain values."""
        return {f.name: getattr(self, f.name) for f in flags() if f.metadata["training"]}


def flags():
    """The fields of Config that are command line flags."""
    return [f for f in fields(Config) if f.metadata]


def build_parser(description):
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter,
                                     allow_abbrev=False, argument_default=argparse.SUPPRESS)
    types = typing.get_type_hints(Config)
    for f in flags():
        flag, kind = "--" + f.name.replace("_", "-"), types[f.name]
        text = f.metadata["reason"] + ("" if f.default in (None, "", ()) else f" [{f.default}]")
        if kind is bool:
            parser.add_argument(flag, action=argparse.BooleanOptionalAction, help=text)
        elif kind == tuple[str, ...]:
            parser.add_argument(flag, nargs="+", help=text)
        else:
            kind = int if kind == (int | None) else kind
            parser.add_argument(flag, type=kind, choices=f.metadata["choices"], help=text)
    return parser


def resolve(given, presets):
    """Config from the flags that were given and {task: {preset: {setting: value}}}.

    Raises InputError for an unknown task, preset or setting.
    """
    task, demo = given.get("task", "rsna"), given.get("demo", False)
    if task not in presets:
        raise InputError(f"unknown --task {task}: choose from {', '.join(presets)}")
    preset = given.get("preset") or ("demo" if demo else "paper")
    if preset not in presets[task]:
        raise InputError(f"unknown --preset {preset} of task {task}: choose from {', '.join(presets[task])}")
    values = {"input": Path("input/demo"), "working": Path("working/demo")} if demo else {}
    values |= presets[task][preset]
    unknown = set(values) - {f.name for f in flags()}
    if unknown:
        raise InputError(f"preset {preset} of task {task} has unknown settings: {', '.join(sorted(unknown))}")
    base = Config(**(values | {"task": task, "preset": preset}))
    config = dataclasses.replace(base, **(given | {"preset": preset, "explicit": tuple(given)}))
    check(config)
    return dataclasses.replace(config, run=config.run or run_name(base, config), compare=tuple(config.compare),
                               images=tuple(config.images))


def run_name(base, config):
    """`preset` or `preset-setting=value-...` for every training setting that differs from the preset."""
    new, old = config.training_settings(), base.training_settings()
    changed = [f"{key}={Path(str(value)).name}" for key, value in new.items() if value != old[key]]
    return "-".join([config.preset, *changed])


def check(config):
    positive = ("folds", "size", "image_size", "epochs", "batch_size", "accumulate", "keep", "lr", "clip", "channels")
    for name in positive:
        if getattr(config, name) <= 0:
            raise InputError(f"--{name.replace('_', '-')} must be above 0, not {getattr(config, name)}")
    for name in ("dropout", "ema"):
        if not 0 <= getattr(config, name) < 1:
            raise InputError(f"--{name.replace('_', '-')} must be at least 0 and below 1, not {getattr(config, name)}")
    if config.folds < 2:
        raise InputError("--folds must be at least 2: one part is for validation")
    config.wanted_folds()


def run_step(step, description, tasks):
    """Parse the command line, call step(task, config), and turn what a user can repair into one sentence and exit 1."""
    given = vars(build_parser(description).parse_args())
    try:
        config = resolve(given, {name: task.presets for name, task in tasks.items()})
        status = step(tasks[config.task], config)
    except InputError as error:
        sys.exit(f"error: {error}")
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES):
            raise
        sys.exit(f"error: cannot write {error.filename or 'a file'} ({error.strerror}): "
                 "free space or choose another --working folder, then run the same command again")
    except KeyboardInterrupt:
        sys.exit("stopped by Ctrl-C: finished parts are kept, the same command continues")
    sys.exit(status or 0)
