"""What --search may try: a YAML file of settings, each with a range or a list of values.

lr: {from: 1e-4, to: 1e-3, log: true}
dropout: {from: 0.1, to: 0.6}
augmentation: [10, 15, 20]
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import yaml

from cxr.setting_checks import check_values
from cxr.settings import Settings, convert, flag, setting_fields, setting_types
from cxr.system.errors import InputError
from cxr.tasks import Task

RANGE_WORDS = {"from", "to", "log"}
DIGITS = 3  # of a tried number: the names of runs stay short, and nothing hangs on the fourth


class Trial(Protocol):
    """What is used of Optuna's trial to propose a value."""

    def suggest_float(self, name: str, low: float, high: float, *, log: bool) -> float: ...

    def suggest_int(self, name: str, low: int, high: int, *, log: bool) -> int: ...

    def suggest_categorical(self, name: str, choices: Any) -> Any: ...


@dataclass(frozen=True)
class Range:
    """Numbers from `low` to `high`, both possible. log: a tenth counts as far as ten times."""

    name: str
    low: float
    high: float
    log: bool
    whole: bool

    def propose(self, trial: Trial) -> float:
        """A value of this setting."""
        if self.whole:
            return trial.suggest_int(self.name, int(self.low), int(self.high), log=self.log)
        value = trial.suggest_float(self.name, self.low, self.high, log=self.log)
        return float(f"{value:.{DIGITS}g}")

    def contains(self, value: Any) -> bool:
        return isinstance(value, int | float) and self.low <= value <= self.high


@dataclass(frozen=True)
class Choices:
    """Some values."""

    name: str
    values: tuple[Any, ...]

    def propose(self, trial: Trial) -> Any:
        """A value of this setting."""
        return trial.suggest_categorical(self.name, self.values)

    def contains(self, value: Any) -> bool:
        return value in self.values


def read_space(path: Path, task: Task, settings: Settings) -> list[Range | Choices]:
    """The settings that a file names, checked. Raises InputError that names the file."""
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"--search {path} does not exist") from None
    except (ValueError, yaml.YAMLError, OSError) as error:
        reason = str(error).replace("\n", " ")
        raise InputError(f"--search {path} is not readable ({reason})") from None
    if not isinstance(content, dict) or not content:
        raise InputError(
            f"--search {path} must hold settings, such as `lr: {{from: 1e-4, to: 1e-3, log: true}}`"
        )
    fields: dict[str, dataclasses.Field] = {}
    types: dict[str, Any] = {}
    for area in settings.areas().values():
        fields |= setting_fields(type(area))
        types |= setting_types(type(area))

    space: list[Range | Choices] = []
    for word, wanted in content.items():
        name = str(word).replace("-", "_")
        where = f"--search {path}: {name}"
        if name not in fields or not fields[name].metadata["training"]:
            raise InputError(
                f"{where} is no setting of the training of {task.name}: see 03_train.py --help"
            )
        if name in settings.given:
            raise InputError(f"{where} is also given by {flag(name)}: leave one out")
        if isinstance(wanted, Mapping):
            space.append(read_range(where, name, wanted, types[name]))
        else:
            space.append(read_choices(where, name, wanted, fields[name], types[name]))
    for each in space:
        refuse_impossible(path, task, settings, each)
    return space


def read_range(where: str, name: str, wanted: Mapping[Any, Any], kind: Any) -> Range:
    """{from: 0.1, to: 0.6}, perhaps with log: true. Raises InputError for what is none."""
    if kind not in (int, float):
        raise InputError(f"{where} is no number: give a list of values")
    words = set(wanted)
    if not {"from", "to"} <= words <= RANGE_WORDS:
        raise InputError(f"{where} needs `from` and `to`, and may have `log`, nothing else")
    try:
        low, high = convert(name, wanted["from"], kind), convert(name, wanted["to"], kind)
        log = convert("log", wanted.get("log", False), bool)
    except InputError as error:
        raise InputError(f"{where} cannot be used ({error})") from None
    if low >= high:
        raise InputError(f"{where} goes from {low} to {high}: the second must be larger")
    if log and low <= 0:
        raise InputError(f"{where} begins at {low}: with log it must begin above 0")
    return Range(name, low, high, log, whole=kind is int)


def read_choices(
    where: str, name: str, wanted: Any, setting_field: dataclasses.Field, kind: Any
) -> Choices:
    """[10, 15, 20]. Raises InputError for what is no list of different values."""
    if not isinstance(wanted, list) or len(wanted) < 2:
        raise InputError(f"{where} must be a list of two values or more, or a range from, to")
    try:
        values = tuple(convert(name, value, kind) for value in wanted)
    except InputError as error:
        raise InputError(f"{where} cannot be used ({error})") from None
    known = setting_field.metadata["choices"]
    for value in values:
        if known and value not in known:
            raise InputError(f"{where} cannot be {value!r}: choose from {', '.join(known)}")
    if len(set(values)) < len(values):
        raise InputError(f"{where} names a value twice")
    return Choices(name, values)


def refuse_impossible(path: Path, task: Task, settings: Settings, each: Range | Choices) -> None:
    """Raises InputError where a value cannot be used, the other settings being as they are."""
    values = each.values if isinstance(each, Choices) else (each.low, each.high)
    for value in values:
        try:
            tried = settings.replace(**{each.name: value})
            check_values(tried)
            task.check(tried)
        except InputError as error:
            raise InputError(f"--search {path}: {each.name} cannot be {value} ({error})") from None
