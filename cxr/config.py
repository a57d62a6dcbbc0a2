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

from cxr.system.disk import InputError

LONGEST_NAME = 200  # letters of a run's name; file systems take 255
STOPPED = 75  # exit status "stopped by --max-hours, run again" (EX_TEMPFAIL of sysexits.h)


def setting(default, reason, training=False, choices=None):
    """One field of Config: its default, why it exists, and whether it changes the trained weights."""
    return field(
        default=default, metadata={"reason": reason, "training": training, "choices": choices}
    )


@dataclass(frozen=True)
class Config:
    task: str = setting("rsna", "which data set and competition")
    preset: str = setting(
        "",
        "a named set of values: paper (default), small (hundreds of images, two CPU cores), demo",
    )
    demo: bool = setting(
        False, "synthetic data in input/demo, results in working/demo, preset demo"
    )
    input: Path = setting(
        Path("input"), "folder that holds the data set's folder; never written except by step 01"
    )
    working: Path = setting(Path("working"), "everything the steps write goes below this folder")
    run: str = setting(
        "", "name of the run's folder; default: the preset and what differs from it in training"
    )
    fold: int | None = setting(None, "only this fold, counted from 0; default: all folds")
    folds: int = setting(4, "number of folds; the 2nd place used 4")
    seed: int = setting(
        42, "seed of folds, weights, sampling and augmentation; 42 made the published folds", True
    )
    workers: int = setting(
        -1, "processes that load images; -1: one for each core, 2 at least, 8 at most"
    )
    demo_images: int = setting(160, "number of synthetic training images of --demo")

    size: int = setting(
        512, "side of the stored PNGs in pixels; the paper found 256 too small and 1024 impractical"
    )
    cleaning: str = setting(
        "B",
        "images of COVID-19 studies that step 02 leaves out: B those without box beside a "
        "boxed one, A all without box of positive studies, C all of studies with several images",
        choices=("B", "A", "C"),
    )
    max_failed_share: float = setting(
        0.05, "step 02 ends with an error if more than this share of the images fails"
    )

    encoder: str = setting(
        "se_resnext101_32x4d", "an encoder of segmentation-models-pytorch, or tu-NAME of timm", True
    )
    weights: str = setting(
        "imagenet", "imagenet, pretrainedmodels, none (random), or a file with a state dict", True
    )
    levels: str = setting(
        "2-7", "pyramid levels; level 2 is the paper's addition for small boxes", True
    )
    channels: int = setting(256, "channels of the pyramid and heads; 256 as in RetinaNet", True)
    head_convs: int = setting(4, "3x3 convolutions in each head; 4 as in RetinaNet", True)
    head_norm: str = setting(
        "none",
        "group normalisation in the heads: none as published, group helps random weights",
        True,
        ("none", "group"),
    )
    classes: int = setting(
        0, "only the first so many box classes of the task's list; 0: all of them", True
    )
    dropout: float = setting(
        0.75, "dropout before the class and the global output; 0.75 in the best model", True
    )

    decoder: str = setting(
        "unet",
        "of a segmentation network: unet (segmentation-models-pytorch's), albunet, plain "
        "(no normalisation), scse (attention), deeplab (V3+), cbam or aspp (with hypercolumns), "
        "blocks (without skips)",
        True,
        ("unet", "albunet", "plain", "scse", "deeplab", "cbam", "aspp", "blocks"),
    )
    label_head: str = setting(
        "none",
        "head for the whole image of a segmentation network: none, linear, or two "
        "layers, of which the first gives as many numbers as it gets (double) or 64 (narrow)",
        True,
        ("none", "linear", "double", "narrow"),
    )
    encoder_norm: str = setting(
        "train",
        "batch norm in a segmentation network's pretrained encoder: train, or frozen "
        "as the 4th place had it",
        True,
        ("train", "frozen"),
    )
    mask_loss: str = setting(
        "bce=1,dice=1",
        "weighted terms of a segmentation loss: bce, dice, squared_dice, focal "
        "and lovasz of the mask, label and label_focal of the image",
        True,
    )
    aux_weight: float = setting(
        10.0,
        "weight of --mask-loss beside a classifier's class loss, 10 as published; 0: it "
        "learns no masks",
        True,
    )
    label_smoothing: float = setting(
        0.05,
        "share of a class label that is spread over all classes; it helped the 17th "
        "place, and 0.05 was the 47th's best value",
        True,
    )

    image_size: int = setting(512, "side of the network's input in pixels", True)
    epochs: int = setting(12, "passes over the training folds", True)
    batch_size: int = setting(4, "images in a step and process", True)
    accumulate: int = setting(1, "steps whose gradients are added before one update", True)
    optimizer: str = setting(
        "adam",
        "adam as published; adamw decouples the weight decay; sgd with momentum 0.9",
        True,
        ("adam", "adamw", "sgd"),
    )
    lr: float = setting(
        1e-5, "learning rate; 1e-5 suits pretrained weights, random ones need 3e-4 to 1e-3", True
    )
    weight_decay: float = setting(0.0, "weight decay", True)
    schedule: str = setting(
        "plateau",
        "plateau: x0.2 after 4 epochs without a lower validation loss; metric: x0.1 "
        "after 2 without a better metric; cosine: per step to 1 %% after a warm-up of 3 %%; waves: "
        "down and up again in --cycle epochs each; restarts: down in --cycle epochs, then anew, in "
        "the last four at 1/50 and 1/100; constant",
        True,
        ("plateau", "metric", "cosine", "waves", "restarts", "constant"),
    )
    cycle: int = setting(8, "epochs of a wave's fall, or between restarts", True)
    lr_min: float = setting(1e-7, "lowest learning rate of waves and restarts", True)
    clip: float = setting(0.05, "gradient norm is clipped here; 0.05 as published", True)
    freeze_epochs: int = setting(
        1, "first epochs with a frozen encoder, only if it is pretrained", True
    )
    class_weight: float = setting(
        1.0, "weight of the anchor class loss; 0 and --global-weight 0: boxes only", True
    )
    divide_by: str = setting(
        "image",
        "whose positive anchors divide the detection losses: each image's as published, "
        "or their running mean, which suits random weights",
        True,
        ("image", "running"),
    )
    sampling: str = setting(
        "all",
        "images of an epoch with masks to learn: all once; share: all positives and as many "
        "negatives as --positive-share leaves room for; balanced: as many draws as images, half "
        "of them positive; positives: these alone",
        True,
        ("all", "share", "balanced", "positives"),
    )
    positive_share: float = setting(
        0.8, "share of positives of --sampling share in the first epoch; 1: no negatives", True
    )
    positive_share_end: float = setting(
        0.0, "the share moves evenly towards this after the last epoch; 0: it stays", True
    )
    lungs: str = setting(
        "", "a run of the task lungs; images are cut to the lungs that it finds", True
    )
    pseudo: str = setting(
        "",
        "a run whose masks or classes of the test images are learned, too; a fold learns "
        "what that run's models of the same fold say",
        True,
    )
    pseudo_ratio: float = setting(
        0.5, "images of --pseudo in an epoch from the second on, for each other image", True
    )
    global_weight: float = setting(0.1, "weight of the image class loss", True)
    augmentation: str = setting(
        "20",
        "level: 1 none, 10 light, 11 = 10 without rotation, 15, 20 heavy, "
        "21 = 20 without rotation; for masks also first to fifth and seventeenth, after these "
        "places",
        True,
        (
            "1",
            "10",
            "11",
            "15",
            "20",
            "21",
            "first",
            "second",
            "third",
            "fourth",
            "fifth",
            "seventeenth",
        ),
    )
    paste: float = setting(
        0.0,
        "probability that an image gets boxes of another training image, too, and what they show",
        True,
    )
    ema: float = setting(
        0.0, "decay of the moving average of the weights that is evaluated and kept; 0 is off", True
    )
    ema_from: int = setting(
        1, "epoch, counted from 1, in which the average begins; before, it is a copy", True
    )
    start: str = setting(
        "",
        "the first weights: a run's last ones of the same fold, for larger images or another "
        "share of positives, or a file epoch*.pt",
        True,
    )
    pretrain: int = setting(
        0,
        "synthetic X-rays to learn from before the real ones; 0: none. For random weights and "
        "some hundred images",
        True,
    )
    unlabelled: str = setting(
        "", "a folder of PNG X-rays without labels, from which a mean teacher teaches", True
    )
    unlabelled_batch: int = setting(4, "pictures of --unlabelled in a step; 4 as published", True)
    consistency: float = setting(
        2.0, "weight of student and teacher agreeing, reached in 30 epochs", True
    )
    keep: int = setting(3, "the last epochs whose checkpoints are kept for merging", True)
    patience: int = setting(
        0, "stop a fold after this many epochs without a better metric; 0: never", True
    )
    max_hours: float = setting(
        0.0, "stop training cleanly after this many hours, to be resumed; 0: no limit"
    )
    save_minutes: float = setting(10.0, "state is saved this often inside an epoch, too")
    device: str = setting("auto", "auto, cpu, cuda, cuda:1, mps")
    precision: str = setting(
        "auto",
        "auto: bf16 where the processor has it, fp16 on older GPUs, else fp32",
        choices=("auto", "fp32", "bf16", "fp16"),
    )
    compile: bool = setting(False, "torch.compile the network; costs minutes at the start")

    predictions: str = setting(
        "predictions", "name of the prediction folders, to keep several variants side by side"
    )
    tta: str = setting(
        "flip",
        "views that are merged: none, flip, flip+scale (adds x1.26 and /1.26), or flips "
        "(left-right, upside down, both; for classes)",
        choices=("none", "flip", "flip+scale", "flips"),
    )
    checkpoints: int = setting(
        0, "merge only the last so many kept checkpoints; 0: all that were kept"
    )
    merge: tuple[str, ...] = setting(
        (),
        "further runs whose networks are merged in, fold by fold; they must see "
        "images of the same size, and --predictions keeps the result apart",
    )
    partial: bool = setting(False, "predict with folds whose training is not finished")
    judge_images: int = setting(
        200, "step 06 judges the files, and 07 measures, on at most so many validation images"
    )
    lungs_run: str = setting(
        "", "step 07: a run of the task lungs that says where these are; default: that of --lungs"
    )
    probability_size: int = setting(
        0, "side of the probability pictures that step 04 keeps; 0: that of the network"
    )

    rule: str = setting(
        "first",
        "how probabilities become a mask or none: first (triplet), second (image scores of "
        "--stack), third (0.5), fourth (label head and triplet), fifth (highest pixel)",
        choices=("first", "second", "third", "fourth", "fifth"),
    )
    component: int = setting(
        0, "parts of a mask of up to so many pixels are removed; the 1st place removed 100"
    )
    stack: tuple[str, ...] = setting(
        (),
        "further runs to mix in: their image scores decide which images get a mask, "
        "or their classes are averaged with fitted weights",
    )
    opacities: tuple[str, ...] = setting(
        (),
        "runs of a detection task whose boxes, fused, stand for the opacities of "
        "a classifier's images",
    )
    fit_on: str = setting(
        "folds",
        "where step 05 fits its parameters: folds (nested), testlike (the 1,000 images "
        "labelled like the test set), or published (nothing is fitted, the place's own values of "
        "--rule)",
        choices=("folds", "testlike", "published"),
    )
    leaderboard: float = setting(
        0.0, "score that Kaggle gave for this run's submission, to stand beside its own"
    )
    submit: str = setting("", "send submission.csv to Kaggle with this message")
    compare: tuple[str, ...] = setting(
        (), "names of runs to show side by side, or all, instead of post-processing one"
    )

    images: tuple[str, ...] = setting(
        (), "steps 04 and 07: these files and folders of X-rays, not the data set's"
    )
    out: Path = setting(
        Path("predicted"), "folder for what --images gives: tables, pictures, index.html"
    )
    dicom_sr: bool = setting(
        False, "with --images, write a DICOM Structured Report for each DICOM, too"
    )
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
            raise InputError(
                f"--fold {self.fold} does not exist: there are {self.folds} folds, 0 to {self.folds - 1}"
            )
        return [self.fold]

    def training_settings(self):
        """The settings that decide the trained weights, as plain values."""
        return {f.name: getattr(self, f.name) for f in flags() if f.metadata["training"]}


def flags():
    """The fields of Config that are command line flags."""
    return [f for f in fields(Config) if f.metadata]


def build_parser(description):
    parser = argparse.ArgumentParser(
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
        argument_default=argparse.SUPPRESS,
    )
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
        raise InputError(
            f"unknown --preset {preset} of task {task}: choose from {', '.join(presets[task])}"
        )
    values = {"input": Path("input/demo"), "working": Path("working/demo")} if demo else {}
    values |= presets[task][preset]
    unknown = set(values) - {f.name for f in flags()}
    if unknown:
        raise InputError(
            f"preset {preset} of task {task} has unknown settings: {', '.join(sorted(unknown))}"
        )
    base = Config(**(values | {"task": task, "preset": preset}))
    config = dataclasses.replace(base, **(given | {"preset": preset, "explicit": tuple(given)}))
    check(config)
    return dataclasses.replace(
        config,
        run=config.run or run_name(base, config),
        compare=tuple(config.compare),
        images=tuple(config.images),
        stack=tuple(config.stack),
        opacities=tuple(config.opacities),
        merge=tuple(config.merge),
    )


def run_name(base, config):
    """`preset` or `preset-setting=value-...` for every training setting that differs from the preset."""
    new, old = config.training_settings(), base.training_settings()
    changed = [f"{key}={Path(str(value)).name}" for key, value in new.items() if value != old[key]]
    name = "-".join([config.preset, *changed])
    if len(name) > LONGEST_NAME:
        raise InputError(
            "the settings make too long a name for the folder of the run: give one with --run"
        )
    return name


def check(config):
    positive = (
        "folds",
        "size",
        "image_size",
        "epochs",
        "batch_size",
        "accumulate",
        "keep",
        "lr",
        "clip",
        "channels",
        "judge_images",
        "cycle",
        "unlabelled_batch",
    )
    for name in positive:
        if getattr(config, name) <= 0:
            raise InputError(
                f"--{name.replace('_', '-')} must be above 0, not {getattr(config, name)}"
            )
    for name in ("positive_share", "positive_share_end", "paste"):
        if not 0 <= getattr(config, name) <= 1 or config.positive_share == 0:
            raise InputError(
                f"--{name.replace('_', '-')} must be between 0 and 1, not {getattr(config, name)}"
            )
    for name in ("dropout", "ema", "label_smoothing"):
        if not 0 <= getattr(config, name) < 1:
            raise InputError(
                f"--{name.replace('_', '-')} must be at least 0 and below 1, not {getattr(config, name)}"
            )
    if config.pretrain and config.pretrain < 40:
        raise InputError(
            f"--pretrain must be 0 or at least 40, not {config.pretrain}: fewer pictures teach nothing"
        )
    if config.aux_weight < 0:
        raise InputError(f"--aux-weight must be at least 0, not {config.aux_weight}")
    if config.folds < 2:
        raise InputError("--folds must be at least 2: one part is for validation")
    config.wanted_folds()


def plain_sentence(error):
    """The words of an InputError, also where PyTorch's loader has put the traceback of its process before them."""
    return str(error).rpartition(f"{InputError.__module__}.{InputError.__name__}: ")[2].strip()


def run_step(step, description, tasks):
    """Parse the command line, call step(task, config), and turn what a user can repair into one sentence and exit 1."""
    given = vars(build_parser(description).parse_args())
    try:
        config = resolve(given, {name: task.presets for name, task in tasks.items()})
        status = step(tasks[config.task], config)
    except InputError as error:
        sys.exit(f"error: {plain_sentence(error)}")
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES):
            raise
        sys.exit(
            f"error: cannot write {error.filename or 'a file'} ({error.strerror}): "
            "free space or choose another --working folder, then run the same command again"
        )
    except KeyboardInterrupt:
        sys.exit("stopped by Ctrl-C: finished parts are kept, the same command continues")
    sys.exit(status or 0)
