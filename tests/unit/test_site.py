"""The pages for people: made ones are up to date, links lead somewhere, and all stand in a room."""

import re
import runpy
import subprocess
import sys

import pytest
import yaml
from steps import ROOT

from cxr import __version__

PAGES = [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("*/README.md")]
CONFIG = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))
SETTINGS_PAGE = """
import sys
sys.path.insert(0, "docs")
import make_settings
assert make_settings.PAGE.read_text(encoding="utf-8") == make_settings.make_page()
assert not {"torch", "pandas", "cv2"} & set(sys.modules)
"""


def test_the_page_of_settings_is_up_to_date():
    done = subprocess.run([sys.executable, "-c", SETTINGS_PAGE], cwd=ROOT, stderr=subprocess.PIPE)
    assert done.returncode == 0, f"run python docs/make_settings.py ({done.stderr.decode()})"


def anchors(path):
    """What GitHub and the site call the headings of a page."""
    headings = re.findall(r"^#+ (.*)$", path.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_between_files_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
        if re.match(r"\w+:", target):
            continue
        name, _, anchor = target.partition("#")
        path = page.parent / name if name else page
        assert path.exists(), target
        assert not anchor or anchor in anchors(path), target


def listed(nav):
    """Names of the files in a nav of mkdocs.yml."""
    if isinstance(nav, str):
        return [nav]
    names = []
    for part in nav.values() if isinstance(nav, dict) else nav:
        names += listed(part)
    return names


def test_every_page_stands_in_a_room():
    rooms = [next(iter(room)) for room in CONFIG["nav"]]
    assert rooms == ["Start", "How-to", "Reference", "Why"]
    names = listed(CONFIG["nav"])
    assert len(set(names)) == len(names)
    assert {path.name for path in ROOT.glob("docs/*.md")} <= set(names), "add it to mkdocs.yml"


def test_what_the_front_door_says_of_versions():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["version"] == __version__
    workflow = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text(encoding="utf-8"))
    oldest = workflow["jobs"]["fast"]["strategy"]["matrix"]["python"][0]
    assert f'requires-python = ">={oldest}"' in (ROOT / "pyproject.toml").read_text()


def test_the_workflow_runs_what_is_there():
    workflow = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text(encoding="utf-8"))
    commands = []
    for job in workflow["jobs"].values():
        commands += [step["run"] for step in job["steps"] if "run" in step]
    scripts = {command.split()[1] for command in commands if command.startswith("bash")}
    assert scripts == {".ci/run", "run_tests.sh"}
    assert all((ROOT / script).exists() for script in scripts)


def test_every_command_of_the_readme_can_be_run_by_a_script():
    """Or the script says why not."""
    script = runpy.run_path(str(ROOT / "tests" / "readme_commands.py"))
    said = set(script["readme_commands"]())
    assert len(said) >= 8
    assert said == script["COMMANDS"].keys() | script["NOT_RUN"].keys()


def test_the_readme_is_short_and_names_what_a_stranger_looks_for():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert len(text.encode()) <= 8192
    for name in ("own_images.md", "own_data.md", "pretrained/README.md", "notebooks/"):
        assert name in text
