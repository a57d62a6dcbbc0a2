"""HTML pages in one file, and Markdown: what all share, and how numbers are written in them."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

FRAME = Path(__file__).parent / "templates"  # page.html.jinja, parts.html.jinja
NO_VALUE = "–"


def render_page(template: Path, **content: Any) -> str:
    """The page as text; a name that the template uses and `content` lacks is an error.

    template: a file that may extend page.html.jinja and import parts.html.jinja.
    """
    return _environment(template.parent, is_html=True).get_template(template.name).render(**content)


def render_markdown(template: Path, **content: Any) -> str:
    """A Markdown page as text; the filter `cell` makes a value fit into a table."""
    environment = _environment(template.parent, is_html=False)
    environment.filters["cell"] = table_cell
    text = environment.get_template(template.name).render(**content)
    return re.sub(r"\n{3,}", "\n\n", text).strip() + "\n"  # what was left out leaves empty lines


def _environment(folder: Path, is_html: bool) -> Environment:
    """What makes pages of the templates in a folder."""
    environment = Environment(
        loader=FileSystemLoader([folder, FRAME]),
        autoescape=is_html,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["number"] = format_number
    environment.filters["share"] = format_share
    environment.filters["text"] = setting_text
    environment.filters["flatten"] = flatten_record
    environment.filters["count_of"] = count_of
    environment.globals["isfinite"] = is_finite
    return environment


def is_finite(value: float | None) -> bool:
    return value is not None and math.isfinite(value)


def format_number(value: float | None, digits: int = 3) -> str:
    if value is None or not math.isfinite(value):
        return NO_VALUE
    return f"{value:.{digits}f}"


def format_share(part: int, whole: int) -> str:
    """A part as percentage; a dash where the whole is 0."""
    if not whole:
        return NO_VALUE
    if 0 < part / whole < 0.005:
        return "<1%"
    return f"{part / whole:.0%}"


def count_of(number: float, names: tuple[str, str]) -> str:
    """ "1 box", "2 boxes"; names: (singular, plural)."""
    singular, plural = names
    return f"{int(number)} {singular if number == 1 else plural}"


def setting_text(value: Any) -> str:
    """A setting as a person would write it."""
    if value is None or value == "":
        return NO_VALUE
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.4g}" if math.isfinite(value) else NO_VALUE
    if isinstance(value, (list, tuple)):
        items = [setting_text(item) for item in value]
        return ", ".join(items) or NO_VALUE
    return str(value)


def table_cell(value: Any) -> str:
    """A setting as text for a cell of a Markdown table, which no line or bar may break."""
    text = setting_text(value).replace("&", "&amp;").replace("<", "&lt;")
    return text.replace("|", "\\|").replace("\n", "<br>")


def flatten_record(record: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested dicts as one level: {"versions": {"torch": 2}} becomes {"versions.torch": 2}."""
    flat: dict[str, Any] = {}
    for key, value in record.items():
        if isinstance(value, dict) and value:
            flat |= flatten_record(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat
