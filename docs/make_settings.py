"""docs/settings.md: every setting and every preset, as the code has them.

python docs/make_settings.py

Imports no PyTorch. A test compares the page with what this makes.
"""

from __future__ import annotations

import dataclasses
import sys
import textwrap
from collections.abc import Iterable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

# Found through the line above.
from cxr import method_settings  # noqa: E402
from cxr.command_line import READS, TITLES  # noqa: E402
from cxr.settings import AREAS, flag, setting_fields  # noqa: E402
from cxr.tasks import METHODS, TASKS  # noqa: E402

PAGE = ROOT / "docs" / "settings.md"
COLUMNS = 100
INTRODUCTION = """# Settings

Made from the code by `python docs/make_settings.py`; change `cxr/settings.py`,
`cxr/method_settings.py` and the presets instead.

Each is a flag, and a line `name: value` of a `--config` file. Every step takes the flags of all
areas and of its task's method and data set, and lists in `--help` those that it reads. What stands
under *new weights* changes what is trained, and so the name of the run. A flag that nobody reads in
the given combination is refused.
"""
STEPS = {
    "download": "01",
    "preprocess": "02",
    "train": "03",
    "predict": "04",
    "postprocess": "05",
    "export": "06",
    "grad_cam": "07",
    "serve": "serve.py",
    "inspect": "cxr.inspect",
}


def make_page() -> str:
    """The whole page as Markdown."""
    parts = [INTRODUCTION]
    for area, settings_class in AREAS.items():
        readers = [STEPS[step] for step, read in READS.items() if area in read]
        title = f"{area.capitalize()}: {TITLES[area]}"
        parts.append(section(title, f"Listed by {', '.join(readers)}.", settings_class))
    parts += method_sections()
    parts += data_set_sections()
    parts.append("## Presets\n")
    parts += [preset_section(name) for name in TASKS]
    return "\n".join(parts)


def method_sections() -> list[str]:
    """What each method reads; what two of them share stands once."""
    shared = method_settings.MaskLearningSettings
    sections = []
    users: list[str] = []
    for name, (_, settings_class) in METHODS.items():
        tasks = [task.name for task in TASKS.values() if task.method_name == name]
        inherited: set[str] = set()
        if issubclass(settings_class, shared):
            users += tasks
            inherited = set(setting_fields(shared))
        words = f"Read by the tasks {', '.join(tasks)}."
        sections.append(section(f"Method: {name}", words, settings_class, inherited))
    words = f"Read by the tasks {', '.join(users)}."
    sections.append(section("Methods: segmenter and classifier", words, shared))
    return sections


def data_set_sections() -> list[str]:
    """What some data sets read beside the areas."""
    readers: dict[type, list[str]] = {}
    for task in TASKS.values():
        if setting_fields(task.dataset_settings):
            readers.setdefault(task.dataset_settings, []).append(task.name)
    sections = []
    for settings_class, tasks in readers.items():
        words = f"Read by step 02 of {', '.join(tasks)}."
        sections.append(section(f"Data set: {', '.join(tasks)}", words, settings_class))
    return sections


def section(
    title: str, words: str, settings_class: type, left_out: Iterable[str] = frozenset()
) -> str:
    """A heading and a table with a row for each setting of a class."""
    lines = [f"## {title}", "", words, ""]
    lines += ["| flag | default | why | new weights |", "|---|---|---|---|"]
    for name, setting_field in setting_fields(settings_class).items():
        if name not in left_out:
            lines.append(row(name, setting_field))
    return "\n".join(lines) + "\n"


def row(name: str, setting_field: dataclasses.Field) -> str:
    """One setting as a row of a table."""
    metadata = setting_field.metadata
    reason = metadata["reason"]
    if metadata["choices"]:
        reason += f" (one of {', '.join(metadata['choices'])})"
    if metadata["needs"]:
        reason += f"; only with {words_of_need(metadata['needs'])}"
    marks = "yes" if metadata["training"] else ""
    cells = [f"`{flag(name)}`", plain(setting_field.default), in_table(reason), marks]
    return f"| {' | '.join(cells)} |"


def words_of_need(need: str) -> str:
    """What another setting must be, such as "--schedule waves or restarts"."""
    other, _, values = need.partition("=")
    if not values:
        return flag(other)
    return f"{flag(other)} {' or '.join(values.split(','))}"


def plain(value: Any) -> str:
    """A default as code; nothing where it is nothing."""
    if value in (None, "", ()):
        return ""
    return f"`{as_given(value)}`"


def as_given(value: Any) -> str:
    """A value as one would write it behind its flag."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, tuple):
        return " ".join(value)
    if isinstance(value, Path):
        return value.as_posix()
    return str(value)


def in_table(text: str) -> str:
    """A text that does not end its cell, with names in pointed brackets left visible."""
    return text.replace("|", "\\|").replace("<", "&lt;").replace("*", "\\*")


def preset_section(task_name: str) -> str:
    """The presets of a task, each with the flags that would set the same."""
    lines = [f"### {task_name}", ""]
    for name, preset in TASKS[task_name].presets.items():
        lines += [f"`{name}`: {in_table(preset.gloss)}", "", "```text"]
        flags = [flag_words(each, value) for each, value in preset.values.items()]
        lines += textwrap.wrap(" ".join(flags), COLUMNS, break_on_hyphens=False)
        if not flags:
            lines.append("(all as above)")
        lines += ["```", ""]
    return "\n".join(lines)


def flag_words(name: str, value: Any) -> str:
    if isinstance(value, bool):
        return flag(name) if value else flag(f"no_{name}")
    return f"{flag(name)} {as_given(value)}"


if __name__ == "__main__":
    PAGE.write_text(make_page(), encoding="utf-8")
    print(f"wrote {PAGE}")
