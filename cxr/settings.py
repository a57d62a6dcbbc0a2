"""Every setting, once: small dataclasses by area. Those of the methods: `method_settings.py`.

A field is a flag of the command line. It says why it exists, whether it changes the trained
weights, which values it takes, and under which condition anybody reads it. Nothing here imports
PyTorch, so that `--help` is there at once.

A task has the settings of all areas, of its method and of its data set. `run_all.sh FLAGS` hands
the same words to each step, so every step accepts all flags of its task; a flag that the task
does not read is refused by `cxr/command_line.py`.
"""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cxr.system.errors import InputError

LONGEST_NAME = 200  # letters of a run's name; file systems take 255
BLEND_NAME = "blend"  # of the run that --blend makes, unless --run says otherwise


def setting(
    default: Any,
    reason: str,
    *,
    training: bool = False,
    choices: tuple[str, ...] | None = None,
    needs: str = "",
) -> Any:
    """One field of a settings class.

    reason: what it does and why one would change it. training: whether it changes the trained
    weights, and so the name of the run. choices: the values it takes, if these are few.
    needs: another setting without which nobody reads this one: "pseudo" (must be set), "images or
    dicom_port" (one of them must), or "schedule=waves,restarts" (must have one of these values).
    """
    metadata = {"reason": reason, "training": training, "choices": choices, "needs": needs}
    return field(default=default, metadata=metadata)


# ------------------------------------------------------------------------------ areas


@dataclass(frozen=True)
class PlaceSettings:
    """Which data set, which run, and where they lie."""

    task: str = setting("rsna", "which data set, learned by which method")
    preset: str = setting("", "a named set of values; default: paper, or demo with --demo")
    demo: bool = setting(
        False, "synthetic data in input/demo, results in working/demo, preset demo"
    )
    input: Path = setting(  # noqa: RUF009 (a Path cannot change)
        Path("input"), "folder that holds the data set's folder; only step 01 writes there"
    )
    working: Path = setting(  # noqa: RUF009
        Path("working"), "everything the steps write goes below this folder"
    )
    run: str = setting(
        "",
        "name of the run's folder; default: the preset and what differs from it in training. To "
        "predict images of one's own also FILE.zip of step 06, or starter, which comes along",
    )
    fold: int | None = setting(None, "only this fold, counted from 0; default: all folds")


@dataclass(frozen=True)
class MachineSettings:
    """How the networks run on this machine; nothing here changes what they learn."""

    workers: int = setting(
        -1, "processes that load images; -1: one for each core, 2 at least, 8 at most"
    )
    device: str = setting("auto", "auto, cpu, cuda, cuda:1, mps")
    precision: str = setting(
        "auto",
        "auto: bf16 where the processor has it, fp16 on older GPUs, else fp32",
        choices=("auto", "fp32", "bf16", "fp16"),
    )
    engine: str = setting(
        "auto",
        "what computes the networks for images of one's own and the page: torch; openvino, about "
        "three times as fast on a CPU (pip install openvino); auto: OpenVINO where it is "
        "installed, says of a drawn picture what PyTorch says, and there are 16 images or more",
        choices=("auto", "torch", "openvino"),
    )
    compile: bool = setting(False, "torch.compile the network; costs minutes at the start")
    parallel_folds: int = setting(
        1,
        "on a CPU, so many folds are trained at a time, each with its share of the cores and with "
        "memory of its own; small networks are done sooner with 2",
    )
    max_hours: float = setting(
        0.0, "stop training cleanly after this many hours, to be resumed; 0: no limit"
    )
    save_minutes: float = setting(10.0, "state is saved this often inside an epoch, too")
    tracker: str = setting(
        "auto",
        "who is told the figures of each epoch beside log.csv: none, wandb (offline unless "
        "WANDB_MODE says otherwise) or mlflow (in working/mlruns unless MLFLOW_TRACKING_URI does); "
        "auto: what the variable CXR_TRACKER says, else none",
        choices=("auto", "none", "wandb", "mlflow"),
    )


@dataclass(frozen=True)
class DataSettings:
    """From the files of the data set to stored pictures, tables and folds."""

    size: int = setting(
        512, "side of the stored PNGs in pixels; the paper found 256 too small and 1024 impractical"
    )
    folds: int = setting(4, "number of folds; the 2nd place used 4")
    folds_of: str = setting(
        "",
        "a task whose patients get the same folds here and whose test patients are left out, so "
        "that an encoder learned here may begin that task (--weights TASK/RUN)",
    )
    seed: int = setting(
        42,
        "seed of folds, weights, sampling and augmentation; 42 made the published folds",
        training=True,
    )
    demo_images: int = setting(160, "number of synthetic training images of --demo", needs="demo")
    max_failed_share: float = setting(
        0.05, "step 02 ends with an error if more than this share of the images fails"
    )


@dataclass(frozen=True)
class TrainingSettings:
    """How a network learns, whatever it learns."""

    encoder: str = setting(
        "se_resnext101_32x4d",
        "an encoder of segmentation-models-pytorch, or tu-NAME of timm",
        training=True,
    )
    weights: str = setting(
        "imagenet",
        "imagenet, pretrainedmodels, wheel, none (random), a file with a state dict, or TASK/RUN: "
        "the encoder of a run, whatever its task",
        training=True,
    )
    image_size: int = setting(512, "side of the network's input in pixels", training=True)
    epochs: int = setting(12, "passes over the training folds", training=True)
    batch_size: int = setting(4, "images in a step and process", training=True)
    accumulate: int = setting(1, "steps whose gradients are added before one update", training=True)
    optimizer: str = setting(
        "adam",
        "adam as published; adamw decouples the weight decay; sgd with momentum 0.9",
        training=True,
        choices=("adam", "adamw", "sgd"),
    )
    lr: float = setting(
        1e-5,
        "learning rate; 1e-5 suits pretrained weights, random ones need 3e-4 to 1e-3",
        training=True,
    )
    encoder_lr: float = setting(
        1.0,
        "the encoder learns at this share of --lr; below 1 where its weights are pretrained and "
        "those of the heads random",
        training=True,
    )
    weight_decay: float = setting(0.0, "weight decay", training=True)
    schedule: str = setting(
        "plateau",
        "plateau: x0.2 after 4 epochs without a lower validation loss; metric: x0.1 after 2 "
        "without a better metric; cosine: per step to 1 % after a warm-up of 3 %; waves: down and "
        "up again in --cycle epochs each, to the last trough; restarts: down in --cycle epochs, "
        "then anew, in the last four at 1/50 and 1/100; constant",
        training=True,
        choices=("plateau", "metric", "cosine", "waves", "restarts", "constant"),
    )
    cycle: int = setting(
        8,
        "epochs of a wave's fall, or between restarts",
        training=True,
        needs="schedule=waves,restarts",
    )
    lr_min: float = setting(
        1e-7,
        "lowest learning rate of waves and restarts",
        training=True,
        needs="schedule=waves,restarts",
    )
    clip: float = setting(0.05, "gradient norm is clipped here; 0.05 as published", training=True)
    freeze_epochs: int = setting(
        1, "first epochs with a frozen encoder, only if it is pretrained", training=True
    )
    frozen_stages: int = setting(
        0,
        "stages of a pretrained encoder, from the first, that never learn; 2 ends at the map of "
        "stride 4. Saves time and, with some hundred images, overfitting",
        training=True,
    )
    augmentation: str = setting(
        "20",
        "level: 1 none, 10 light, 11 = 10 without rotation, 15, 20 heavy, 21 = 20 without "
        "rotation; for masks and classes also first to fifth and seventeenth, after these places",
        training=True,
    )
    ema: float = setting(
        0.0,
        "decay of the moving average of the weights that is evaluated and kept; 0 is off",
        training=True,
    )
    ema_from: int = setting(
        1,
        "epoch, counted from 1, in which the average begins; before, it is a copy",
        training=True,
        needs="ema",
    )
    start: str = setting(
        "",
        "the first weights: a run's last ones of the same fold, for larger images or another "
        "share of positives, or a file epoch*.pt, or FILE.zip of step 06, or starter",
        training=True,
    )
    pretrain: int = setting(
        0,
        "synthetic X-rays to learn from before the real ones; 0: none. For some hundred images",
        training=True,
    )
    keep: int = setting(
        3,
        "the last epochs whose checkpoints are kept for merging; of waves and restarts the last "
        "troughs",
        training=True,
    )
    keep_best: int = setting(
        0,
        "so many epochs of the best metric are kept, too; they are chosen on the validation "
        "images, so the out-of-fold score then flatters",
        training=True,
    )
    swa: bool = setting(
        False,
        "at the end of a fold, average the weights of the kept epochs, and measure the batch-norm "
        "statistics anew; the steps after the training take this network in their place",
        training=True,
    )
    patience: int = setting(
        0,
        "stop a fold after this many epochs without a better metric, with waves and restarts at "
        "the next trough; 0: never",
        training=True,
    )
    search: str = setting(
        "",
        "a YAML file of settings, each with a range or a list: step 03 tries values on one fold, "
        "gives up what falls behind, and trains the best on all folds; steps 04 and 05 then take "
        "that run. Needs the package optuna",
    )
    trials: int = setting(20, "so many sets of values are tried by --search", needs="search")


@dataclass(frozen=True)
class PredictionSettings:
    """Which networks and views answer, and under which name the answers are kept."""

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
        "further runs whose networks are merged in, fold by fold; they must see images of the "
        "same size, and --predictions keeps the result apart",
    )
    partial: bool = setting(False, "predict with folds whose training is not finished")
    blend: tuple[str, ...] = setting(
        (),
        "runs of the task to mix, NAME or NAME=WEIGHT, whatever networks they have; step 04 writes "
        "the mixed predictions as a run of its own, which --run names",
    )
    blend_csv: tuple[str, ...] = setting(
        (),
        "files of other people's predictions to mix in, FILE or FILE=WEIGHT: a submission, or "
        "COCO's results (.json), with answers of all labelled images, out of fold, and of the test "
        "images",
        needs="blend",
    )
    blend_weights: str = setting(
        "given",
        "weights of --blend: given (equal where there are none), or fit, which are fitted on the "
        "other folds",
        choices=("given", "fit"),
        needs="blend",
    )


@dataclass(frozen=True)
class ImageSettings:
    """Prediction of any X-rays: steps 04 and 07 with --images."""

    images: tuple[str, ...] = setting((), "these files and folders of X-rays, not the data set's")
    out: Path = setting(  # noqa: RUF009
        Path("predicted"),
        "folder for what --images or --dicom-port gives: tables, pictures, index.html",
        needs="images or dicom_port",
    )
    dicom_sr: bool = setting(
        False, "with --images, write a DICOM Structured Report for each DICOM, too", needs="images"
    )
    dicom_seg: bool = setting(
        False,
        "with --images, write a DICOM Segmentation for each DICOM; only of runs that give masks",
        needs="images",
    )
    dicom_pr: bool = setting(
        False,
        "with --images, write a Grayscale Softcopy Presentation State for each DICOM: boxes, "
        "outlines and words that a viewer draws over it",
        needs="images",
    )
    dicom_sc: bool = setting(
        False,
        "with --images, write a DICOM Secondary Capture of the overlay of each DICOM",
        needs="images",
    )
    heat_maps: bool = setting(
        False,
        "with --images, write where a classifier looked: each image under the heat map (Grad-CAM) "
        "of its most probable class; takes about three times as long",
        needs="images",
    )
    watch: bool = setting(
        False,
        "with --images, go on with whole files that arrive in its folders, until Ctrl-C",
        needs="images",
    )
    only_chest: bool = setting(
        False,
        "leave out images that are no frontal chest X-rays by their headers, which are predicted "
        "and marked otherwise",
        needs="images or dicom_port",
    )


@dataclass(frozen=True)
class JudgingSettings:
    """How out-of-fold answers are judged, and what happens with the result."""

    fit_on: str = setting(
        "folds",
        "where step 05 fits its parameters: folds (nested), testlike (the 1,000 images labelled "
        "like the test set), or published (nothing is fitted, the place's own values of --rule)",
        choices=("folds", "testlike", "published"),
    )
    leaderboard: float = setting(
        0.0, "score that Kaggle gave for this run's submission, to stand beside its own"
    )
    submit: str = setting("", "send submission.csv to Kaggle with this message")
    compare: tuple[str, ...] = setting(
        (), "names of runs to show side by side, or all, instead of post-processing one"
    )


@dataclass(frozen=True)
class ExtraSettings:
    """What only the further steps read: 06, 07 and the page."""

    judge_images: int = setting(
        200, "step 06 judges the files, and 07 measures, on at most so many validation images"
    )
    lungs_run: str = setting(
        "", "step 07: a run of the task lungs that says where these are; default: that of --lungs"
    )
    zip: bool = setting(
        False, "step 06 writes the run as one file, for --run FILE.zip, and no ONNX files"
    )
    half: bool = setting(
        False,
        "store its weights in half precision, half the bytes; step 06 prints what that changes",
        needs="zip",
    )
    ncnn: bool = setting(
        False,
        "step 06 also writes the fp32 file as ncnn has it, by pnnx: for edge_predict.py --engine "
        "ncnn, which is fast on processors without AVX",
    )
    port: int = setting(8000, "port of the local page of serve.py")


@dataclass(frozen=True)
class HospitalSettings:
    """How other machines reach serve.py: people the page, devices a DICOM port."""

    host: str = setting(
        "",
        "this machine's address or name, under which others reach the page, with a token; "
        "default: only this machine does, without one",
    )
    token_file: str = setting(
        "",
        "a file that holds the token of the page; default: a random one is printed at the start",
        needs="host",
    )
    dicom_port: int = setting(
        0,
        "port on which X-rays are received by DICOM (104 or 11112 by custom) and predicted into "
        "--out; 0: none",
    )
    aet: str = setting(
        "CXR", "AE title of serve.py, by which devices must call it", needs="dicom_port"
    )
    allow_from: tuple[str, ...] = setting(
        (), "AE titles of the devices that may send; default: any", needs="dicom_port"
    )
    send_to: str = setting(
        "", "AET@host:port of the archive to which reports are sent", needs="dicom_port"
    )


# ---------------------------------------------------------------------------- methods


@dataclass(frozen=True)
class MethodSettings:
    """What a method reads beside the areas.

    The fields here are no flags: they are what a method without such a flag has.
    """

    paste: float = 0.0
    edge_noise: float = 0.0
    lungs: str = ""
    pseudo: str = ""
    external: tuple[str, ...] = ()
    stack: tuple[str, ...] = ()
    opacities: tuple[str, ...] = ()
    gate: str = ""
    clahe: float = 0.0
    header_inputs: bool = False


@dataclass(frozen=True)
class DatasetSettings:
    """What a data set reads beside the areas; most read nothing."""


# ------------------------------------------------------------------------ all of a task

AREAS: dict[str, type] = {
    "place": PlaceSettings,
    "data": DataSettings,
    "training": TrainingSettings,
    "machine": MachineSettings,
    "prediction": PredictionSettings,
    "images": ImageSettings,
    "judging": JudgingSettings,
    "extra": ExtraSettings,
    "hospital": HospitalSettings,
}


@dataclass(frozen=True)
class Settings:
    """All settings of one task, by area. `given`: names of those set by flags or --config."""

    place: PlaceSettings = field(default_factory=PlaceSettings)
    data: DataSettings = field(default_factory=DataSettings)
    training: TrainingSettings = field(default_factory=TrainingSettings)
    machine: MachineSettings = field(default_factory=MachineSettings)
    prediction: PredictionSettings = field(default_factory=PredictionSettings)
    images: ImageSettings = field(default_factory=ImageSettings)
    judging: JudgingSettings = field(default_factory=JudgingSettings)
    extra: ExtraSettings = field(default_factory=ExtraSettings)
    hospital: HospitalSettings = field(default_factory=HospitalSettings)
    method: Any = field(default_factory=MethodSettings)  # of the task's method
    dataset: Any = field(default_factory=DatasetSettings)  # of the task's data set
    given: tuple[str, ...] = ()

    def areas(self) -> dict[str, Any]:
        """{area: its dataclass}, the method's and the data set's among them."""
        names = [f.name for f in dataclasses.fields(self) if f.name != "given"]
        return {name: getattr(self, name) for name in names}

    def flat(self) -> dict[str, Any]:
        """{setting: value} over all areas."""
        values: dict[str, Any] = {}
        for area in self.areas().values():
            for name in setting_fields(type(area)):
                values[name] = getattr(area, name)
        return values

    def plain(self) -> dict[str, Any]:
        """The same as JSON's own types, as config.json and checkpoints hold it."""
        return {name: _plain_value(value) for name, value in self.flat().items()}

    def training_values(self) -> dict[str, Any]:
        """The settings that decide the trained weights."""
        values: dict[str, Any] = {}
        for area in self.areas().values():
            for name, setting_field in setting_fields(type(area)).items():
                if setting_field.metadata["training"]:
                    values[name] = getattr(area, name)
        return values

    def replace(self, **changes: Any) -> Settings:
        """A copy with other values of single settings, named as flags are.

        Names that this task does not have are an error of the caller (KeyError).
        """
        changed: dict[str, Any] = {}
        for area_name, area in self.areas().items():
            names = setting_fields(type(area))
            mine = {name: changes.pop(name) for name in list(changes) if name in names}
            if mine:
                changed[area_name] = dataclasses.replace(area, **mine)
        if changes:
            raise KeyError(f"no such setting: {', '.join(changes)}")
        return dataclasses.replace(self, **changed)

    def without_given(self) -> Settings:
        """A copy of which nothing counts as given: for another run, whose settings are its own."""
        return dataclasses.replace(self, given=())

    def wanted_folds(self) -> list[int]:
        """The folds to work on. Raises InputError for a fold that does not exist."""
        fold = self.place.fold
        folds = self.data.folds
        if fold is None:
            return list(range(folds))
        if not 0 <= fold < folds:
            raise InputError(
                f"--fold {fold} does not exist: there are {folds} folds, 0 to {folds - 1}"
            )
        return [fold]


def setting_fields(area: type) -> dict[str, dataclasses.Field]:
    """{name: field} of a settings class."""
    return {f.name: f for f in dataclasses.fields(area) if f.metadata}


def setting_types(area: type) -> dict[str, Any]:
    """{name: type} of a settings class."""
    hints = typing.get_type_hints(area)
    return {name: hints[name] for name in setting_fields(area)}


def make_settings(
    values: Mapping[str, Any],
    method: type[MethodSettings],
    dataset: type[DatasetSettings] = DatasetSettings,
    given: tuple[str, ...] = (),
) -> Settings:
    """Settings of a task of these classes, from {setting: value}; the others keep their defaults.

    Values may be JSON's own types. Names that the task does not have are left out: records of
    older versions hold more.
    """
    areas: dict[str, Any] = {}
    for area_name, area in [*AREAS.items(), ("method", method), ("dataset", dataset)]:
        types = setting_types(area)
        mine = {name: convert(name, values[name], types[name]) for name in types if name in values}
        areas[area_name] = area(**mine)
    return Settings(**areas, given=given)


def _plain_value(value: Any) -> Any:
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, tuple):
        return list(value)
    return value


def convert(name: str, value: Any, wanted: Any) -> Any:
    """A value of a flag, or of a JSON or YAML file, as the field's own type.

    Raises InputError for one that cannot be meant.
    """
    if wanted is bool and isinstance(value, bool):
        return value
    if wanted is Path and isinstance(value, str | Path):
        return Path(value)
    if wanted == tuple[str, ...] and isinstance(value, list | tuple):
        return tuple(str(word) for word in value)
    if wanted == (int | None) and value is None:
        return None
    if wanted is str and isinstance(value, str | int | float) and not isinstance(value, bool):
        return str(value)  # YAML reads `augmentation: 20` as a number
    if wanted in (int, float, int | None) and not isinstance(value, bool):
        number = _as_number(value, float if wanted is float else int)
        if number is not None:
            return number
    kinds = {bool: "true or false", Path: "a path", str: "a text", float: "a number"}
    kinds[tuple[str, ...]] = "a list of names"
    raise InputError(f"{name} must be {kinds.get(wanted, 'a whole number')}, not {value!r}")


def _as_number(value: Any, wanted: type[int] | type[float]) -> int | float | None:
    """The number that a value is or, as YAML has 1e-4, says; None where it is or says none."""
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    if wanted is float:
        return number
    return int(number) if number.is_integer() else None


def run_name(base: Settings, settings: Settings) -> str:
    """`preset` or `preset-setting=value-...` for every training setting that differs.

    Of --blend it is BLEND_NAME.
    """
    if settings.prediction.blend:
        return BLEND_NAME
    old = base.training_values()
    changed = []
    for name, value in settings.training_values().items():
        if value != old[name]:
            words = value if isinstance(value, tuple) else (value,)
            names = [Path(str(word)).name for word in words]
            changed.append(f"{name}={'+'.join(names)}")
    name = "-".join([settings.place.preset, *changed])
    if len(name) > LONGEST_NAME:
        raise InputError(
            "the settings make too long a name for the folder of the run: give one with --run"
        )
    return name


def flag(name: str) -> str:
    """The command line's word for a setting."""
    return "--" + name.replace("_", "-")
