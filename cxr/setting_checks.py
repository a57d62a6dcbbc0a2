"""Values of settings that no task can use, and settings that nobody would read."""

from __future__ import annotations

from collections.abc import Iterator

from cxr.settings import Settings, flag, setting_fields
from cxr.system.errors import InputError

POSITIVE = (
    *("folds", "size", "image_size", "epochs", "batch_size", "accumulate", "keep", "lr", "clip"),
    *("channels", "judge_images", "cycle", "unlabelled_batch", "candidates", "trials"),
    "encoder_lr",
)
SHARES = ("positive_share", "positive_share_end", "paste", "nms_iou")
BELOW_ONE = ("dropout", "ema", "label_smoothing", "candidate_floor", "pseudo_score")
FEWEST_LESSONS = 40  # synthetic X-rays; fewer teach nothing


def check_values(settings: Settings) -> None:
    """Raises InputError for a value that no task can use, or one that nobody would read."""
    values = settings.flat()
    for name in POSITIVE:
        if name in values and values[name] <= 0:
            raise InputError(f"{flag(name)} must be above 0, not {values[name]}")
    for name in SHARES:
        if name in values and not 0 <= values[name] <= 1:
            raise InputError(f"{flag(name)} must be between 0 and 1, not {values[name]}")
    for name in BELOW_ONE:
        if name in values and not 0 <= values[name] < 1:
            raise InputError(f"{flag(name)} must be at least 0 and below 1, not {values[name]}")
    if values.get("positive_share") == 0:
        raise InputError("--positive-share must be between 0 and 1, not 0.0")
    if values["pretrain"] and values["pretrain"] < FEWEST_LESSONS:
        raise InputError(
            f"--pretrain must be 0 or at least {FEWEST_LESSONS}, not {values['pretrain']}: fewer "
            "pictures teach nothing"
        )
    if not 0 <= values["frozen_stages"] <= 5:
        raise InputError(f"--frozen-stages must be 0 to 5, not {values['frozen_stages']}")
    has_weights = values["weights"] != "none" or values["start"] or values["pretrain"]
    if "frozen_stages" in settings.given and values["frozen_stages"] and not has_weights:
        raise InputError("--frozen-stages keeps random weights as they are: leave it out")
    if values.get("aux_weight", 0) < 0:
        raise InputError(f"--aux-weight must be at least 0, not {values['aux_weight']}")
    if not 0 <= values.get("edge_noise", 0) < 0.5:
        raise InputError(
            f"--edge-noise must be at least 0 and below 0.5, not {values['edge_noise']}: boxes "
            "would turn inside out"
        )
    if values.get("mixup", 0) < 0:
        raise InputError(f"--mixup must be at least 0, not {values['mixup']}")
    if values.get("clahe", 0) < 0:
        raise InputError(f"--clahe must be at least 0, not {values['clahe']}")
    if values["parallel_folds"] < 1:
        raise InputError(f"--parallel-folds must be at least 1, not {values['parallel_folds']}")
    if values["keep_best"] < 0:
        raise InputError(f"--keep-best must be at least 0, not {values['keep_best']}")
    if values["folds"] < 2:
        raise InputError("--folds must be at least 2: one part is for validation")
    if {"start", "pretrain"} <= set(settings.given) and values["start"] and values["pretrain"]:
        raise InputError("--start and --pretrain both say where the weights begin: leave one out")
    if values["blend"] and values["merge"]:
        raise InputError(
            "--blend mixes finished predictions and --merge networks: leave one out, or blend runs "
            "whose predictions are merged"
        )
    for name, need in unmet_needs(settings):
        raise InputError(f"{flag(name)} is only read with {need}: add that, or leave it out")


def unmet_needs(settings: Settings) -> Iterator[tuple[str, str]]:
    """Yield (setting, words of what it needs) of what was given and nobody reads."""
    values = settings.flat()
    for area in settings.areas().values():
        for name, setting_field in setting_fields(type(area)).items():
            need = setting_field.metadata["needs"]
            if not need or name not in settings.given:
                continue
            other, _, wanted = need.partition("=")
            alternatives = other.split(" or ")
            if wanted and str(values[other]) not in wanted.split(","):
                yield name, f"{flag(other)} {' or '.join(wanted.split(','))}"
            elif not wanted and not any(values[each] for each in alternatives):
                yield name, " or ".join(map(flag, alternatives))
