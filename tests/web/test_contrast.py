"""Words and controls stand out enough from what is behind them: WCAG 2.2, level AA."""

import re

import pytest
from steps import ROOT

REPORTS = ROOT / "cxr" / "plots" / "templates" / "page.html.jinja"
REPORT = ROOT / "cxr" / "steps" / "postprocess" / "templates" / "report.html.jinja"
SERVED = ROOT / "cxr" / "steps" / "serve" / "web" / "page.css"
IMAGES = ROOT / "cxr" / "steps" / "predict" / "templates" / "images.html.jinja"
TEXT, CONTROL = 4.5, 3.0  # least ratios of small text, and of what shows where a control is


def variables(path):
    """{name: colour} of the style's :root."""
    root = re.search(r":root \{(.*?)\}", path.read_text(encoding="utf-8"), re.DOTALL)[1]
    return dict(re.findall(r"--([\w-]+): (#\w+)", root))


def luminance(colour):
    """Relative luminance of #rgb or #rrggbb."""
    digits = colour.removeprefix("#")
    if len(digits) == 3:
        digits = "".join(2 * digit for digit in digits)
    parts = []
    for start in (0, 2, 4):
        value = int(digits[start : start + 2], 16) / 255
        parts.append(value / 12.92 if value <= 0.04045 else ((value + 0.055) / 1.055) ** 2.4)
    return 0.2126 * parts[0] + 0.7152 * parts[1] + 0.0722 * parts[2]


def contrast(one, other):
    """Ratio of two colours, 1 to 21."""
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


def test_contrast_by_hand():
    assert contrast("#fff", "#000000") == pytest.approx(21)
    assert contrast("#777777", "#fff") == pytest.approx(4.48, abs=0.01)


@pytest.mark.parametrize(
    "path, front, behind, least",
    [
        *((REPORTS, name, "paper", TEXT) for name in ("ink", "soft", "accent")),
        *((REPORTS, name, "ground", TEXT) for name in ("ink", "soft", "accent")),
        (REPORTS, "#7a4a00", "#fff4e0", TEXT),  # the notice
        (REPORTS, "bar", "paper", CONTROL),
        (IMAGES, "#8a4b00", "#fff", TEXT),  # no frontal chest X-ray
        *((SERVED, name, "panel", TEXT) for name in ("ink", "soft", "accent")),
        *((SERVED, name, "ground", TEXT) for name in ("ink", "soft")),
        (SERVED, "#ffdf9e", "#3a2c0c", TEXT),  # the notice
        (SERVED, "#ff9d8a", "panel", TEXT),  # what failed
        (SERVED, "ink", "#26303a", TEXT),  # buttons
        (SERVED, "soft", "#1d2c3b", TEXT),  # the chosen X-ray
        (SERVED, "#6a7b8c", "ground", CONTROL),  # where to drop
        (SERVED, "accent", "ground", CONTROL),  # the outline of what has the focus
    ],
)
def test_words_and_controls_stand_out(path, front, behind, least):
    text = path.read_text(encoding="utf-8")
    named = variables(REPORTS if path == IMAGES else path)
    colours = []
    for word in (front, behind):
        if word.startswith("#"):
            assert word in text or word == "#fff", "no longer in the style: mend this list"
        colours.append(named.get(word, word))
    assert contrast(*colours) >= least


def test_the_darkest_cell_of_a_confusion_table_can_be_read():
    """Its tint is the accent, mixed with the paper."""
    text = REPORT.read_text(encoding="utf-8")
    least, more = re.search(r"\(([\d.]+) \+ ([\d.]+) \* part\)", text).groups()
    share = float(least) + float(more)
    accent = variables(REPORTS)["accent"]
    channels = [int(accent[start : start + 2], 16) for start in (1, 3, 5)]
    mixed = [round(share * channel + (1 - share) * 255) for channel in channels]
    assert f"rgba({', '.join(map(str, channels))}," in text
    tint = "#" + "".join(f"{channel:02x}" for channel in mixed)
    assert contrast(variables(REPORTS)["ink"], tint) >= TEXT


def test_reports_are_made_for_paper():
    """Backgrounds carry dots and bars, and closed parts cannot be opened on paper."""
    text = REPORTS.read_text(encoding="utf-8")
    assert "print-color-adjust: exact" in text.partition("@media print")[2]
    assert 'addEventListener("beforeprint"' in text
