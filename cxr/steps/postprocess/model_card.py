"""model_card.md: what a run is for, what it learned from, how good it is and where that ends.

Every number is of the very run: of its report, its records and its files.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from cxr.data.predictions import record_path
from cxr.inference.checkpoint import checkpoint_fingerprint, load_state
from cxr.methods.wording import describe_fit, name_folds
from cxr.plots.page import is_finite, render_markdown, setting_text
from cxr.run_folder import FoldFolder, RunFolder
from cxr.settings import Settings, flag
from cxr.steps.postprocess.cases import WORDS, name_finding
from cxr.steps.postprocess.report import (
    ReportInput,
    complete_images,
    read_run_facts,
    training_times,
)
from cxr.steps.postprocess.report_tables import (
    GroupBar,
    class_bars,
    divisions_of_patients,
    patients_of,
)
from cxr.steps.postprocess.run_records import read_logs
from cxr.system.disk import atomic, read_json, sha256_of
from cxr.system.errors import InputError
from cxr.tasks import Task

TEMPLATE = Path(__file__).parent / "templates" / "model_card.md.jinja"
LEAST_IMAGES = 20  # of a group of patients whose score is said
PURPOSES = {
    "detector": "It draws boxes around",
    "segmenter": "It marks the pixels of",
    "classifier": "It says how likely each class of a chest X-ray is:",
}
ORIGINS = {
    "none": "random numbers",
    "imagenet": "ImageNet, as segmentation-models-pytorch and timm offer them",
    "pretrainedmodels": "ImageNet, from the addresses of pretrainedmodels",
    "wheel": "ImageNet, from an installed package",
}


@dataclass(frozen=True)
class CardInput:
    """What a card is made of.

    report: what the report shows. settings: as trained. learned: the rows of train.csv that the
    run learns and judges, those of folds that are not judged among them.
    """

    report: ReportInput
    task: Task
    settings: Settings
    run: RunFolder
    learned: pd.DataFrame


class FileHash(NamedTuple):
    """A checkpoint as seen from the run's folder, and its SHA-256 or why there is none."""

    name: str
    sha256: str


class ShownGroup(NamedTuple):
    """A group of patients that is large enough, and what divides the images, such as "Sex"."""

    division: str
    bar: GroupBar


class Difference(NamedTuple):
    """A setting of the training that is not the preset's."""

    flag: str
    value: str
    usual: str


def write_model_card(path: Path, card: CardInput) -> Path:
    """Write the card at `path` and return that."""
    text = render_card(card)
    with atomic(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
    return path


def render_card(card: CardInput) -> str:
    """The card as Markdown."""
    report = card.report
    images = complete_images(report.images, report.hit_score)
    config = first_config(card)
    logs = read_logs(card.run)
    facts = read_run_facts(card.run)
    checkpoints = used_checkpoints(card)
    divisions = divisions_of_patients(images)
    groups = []
    small_groups = []
    for division in divisions:
        for bar in division.rows:
            if bar.images >= LEAST_IMAGES and is_finite(bar.score):
                groups.append(ShownGroup(division.title, bar))
            else:
                small_groups.append(f"{division.title.lower()} {bar.label} ({bar.images})")
    words = WORDS | dict(report.words)
    return render_markdown(
        TEMPLATE,
        report=report,
        task=card.task,
        purpose=describe_purpose(card),
        is_drawn=bool(config.get("demo")),
        learned=len(card.learned),
        patients=patients_of(card.learned).nunique(),
        folds=card.learned["fold"].nunique(),
        judged_folds=name_folds(report.judged_folds or sorted(set(images["fold"]))),
        positives=int((images["n_true"] > 0).sum()),
        marked=name_finding(words["marked"], report.finding),
        config=config,
        preset=describe_preset(card, config),
        differences=differences_from_preset(card, config),
        origin=describe_origin(config),
        weights=count_weights(card.run, checkpoints),
        views=card.settings.prediction.tta,
        times=training_times(logs.by_fold, facts.manifest),
        class_bars=class_bars(report.class_rows),
        fit=describe_fit(report.judged_folds, report.fit_on),
        groups=groups,
        small_groups=small_groups,
        least=LEAST_IMAGES,
        unrecorded=unrecorded_facts([division.title for division in divisions]),
        checkpoints=checkpoints,
        manifest=facts.manifest,
        problems=[*report.warnings, *logs.problems, *facts.problems],
    )


def describe_purpose(card: CardInput) -> str:
    """A sentence: what the networks answer."""
    report = card.report
    names: Sequence[str] = report.box_classes
    if card.task.method_name == "classifier":
        names = report.class_names
    sentence = f"{PURPOSES[card.task.method_name]} {', '.join(names)}"
    if card.task.method_name == "detector" and report.class_names:
        sentence += ", and says how likely each class of the whole image is: "
        sentence += ", ".join(report.class_names)
    return f"{sentence}."


def first_config(card: CardInput) -> dict[str, Any]:
    """The record of the training of the first judged fold; the settings where it is gone."""
    folds = sorted(int(fold) for fold in card.report.images["fold"].unique())
    folder = card.run.fold(folds[0])
    if not folder.config.exists():
        return card.settings.plain()
    return card.settings.plain() | folder.read_config()


def describe_preset(card: CardInput, config: Mapping[str, Any]) -> str:
    """The preset's name and what it says of itself."""
    name = config["preset"]
    preset = card.task.presets.get(name)
    if preset is None:
        return f"`{name}`, which this version does not have"
    return f"`{name}`: {preset.gloss}"


def differences_from_preset(card: CardInput, config: Mapping[str, Any]) -> list[Difference]:
    """The settings that decide the weights and are not those of the preset."""
    values: dict[str, Any] = {"task": card.task.name}
    preset = card.task.presets.get(config["preset"])
    if preset is not None:
        values |= preset.values
    usual = card.task.make_settings(values).plain()
    differences = []
    for name in card.settings.training_values():
        if config[name] != usual[name]:
            differences.append(
                Difference(flag(name), short_text(config[name]), short_text(usual[name]))
            )
    return differences


def short_text(value: Any) -> str:
    """A setting as text; of a file only its name, since its place means nothing elsewhere."""
    if isinstance(value, str):
        value = value.replace("\\", "/").rpartition("/")[2]
    return setting_text(value)


def describe_origin(config: Mapping[str, Any]) -> str:
    """Where the first weights came from."""
    weights = str(config["weights"])
    origin = ORIGINS.get(weights, f"the file {short_text(weights)}")
    if config["start"]:
        return f"those of {short_text(config['start'])} (--start)"
    if config["pretrain"]:
        return f"{origin}; then {config['pretrain']} drawn X-rays (--pretrain)"
    return origin


def used_checkpoints(card: CardInput) -> list[FileHash]:
    """The networks whose out-of-fold predictions were judged, by fold.

    Where step 04 has left no record of them: those that are there.
    """
    hashes = []
    for fold in sorted(int(fold) for fold in card.report.images["fold"].unique()):
        folder = card.run.fold(fold)
        for name, fingerprint in recorded_checkpoints(folder, card).items():
            hashes.append(FileHash(name, describe_hash(card.run.path / name, fingerprint)))
    return hashes


def recorded_checkpoints(folder: FoldFolder, card: CardInput) -> dict[str, int | None]:
    """{path as seen from the run's folder: fingerprint, None where it is not known}."""
    predictions = folder.valid_predictions(card.settings.prediction.predictions)
    record = record_path(predictions)
    if record.exists():
        return dict(read_json(record).get("checkpoints", {}))  # a blend has none of its own
    return {path.relative_to(card.run.path).as_posix(): None for path in folder.epochs()}


def describe_hash(path: Path, fingerprint: int | None) -> str:
    """The check sum of a checkpoint, or what has become of it."""
    try:
        if fingerprint is not None and checkpoint_fingerprint(path) != fingerprint:
            return "changed since the predictions were made"
        return sha256_of(path)
    except FileNotFoundError:
        return "no longer there"
    except InputError:
        return "damaged"


def count_weights(run: RunFolder, checkpoints: Sequence[FileHash]) -> int:
    """Numbers in the first network that is there; 0 where none is."""
    for checkpoint in checkpoints:
        path = run.path / checkpoint.name
        if path.exists() and len(checkpoint.sha256) == 64:
            state = load_state(path, mapped=True)
            return sum(tensor.numel() for tensor in state.get("model", {}).values())
    return 0


def unrecorded_facts(titles: Sequence[str]) -> list[str]:
    """Which of sex, age and view are known of no image, in words."""
    return [name for name in ("Sex", "Age", "View") if name not in titles]
