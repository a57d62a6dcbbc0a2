"""The layers of the package: a folder is a layer, and only data sets know a competition."""

import ast
import io
import re
import tokenize
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "cxr"

# A folder imports from those of lower numbers, and from its own level; the files at the top, such
# as settings.py, have theirs. Steps are above all and never import one another.
LEVELS = {
    **dict.fromkeys(("presets", "settings", "method_settings", "setting_checks", "run_folder"), 0),
    **dict.fromkeys(("system", "geometry", "images"), 0),
    **dict.fromkeys(("networks", "metrics", "data", "plots"), 1),
    "methods": 2,
    "datasets": 3,
    "inference": 3,
    "tasks": 3,
    "steps": 4,
    "command_line": 5,
    "inspect": 5,
    "__init__": 5,
    "__main__": 5,
}
# Of the methods, data sets see how answers are judged and how a task is put together.
FOR_DATASETS = re.compile(r"methods\.(base|evaluation|wording|\w+\.\w*scorer)$")
# Packages that may be missing, or do more on import than one wants.
LAZY = {
    *("kaggle", "onnxruntime", "pretrainedmodels", "highdicom", "wandb", "mlflow"),
    "pynetdicom",
    "openvino",
}


def module_name(path):
    """Name below cxr, such as "datasets.rsna.files"."""
    return ".".join(path.relative_to(PACKAGE).with_suffix("").parts)


def parse(path):
    return ast.parse(path.read_text(encoding="utf-8"))


def is_type_checking(node):
    return isinstance(node, ast.If) and getattr(node.test, "id", "") == "TYPE_CHECKING"


def imported(tree):
    """Names below cxr that a file imports when it runs, such as {"system.disk"}."""
    names = set()
    waiting = list(ast.iter_child_nodes(tree))
    while waiting:
        node = waiting.pop()
        if is_type_checking(node):
            continue
        waiting += ast.iter_child_nodes(node)
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are written out, without leading dots"
            names |= names_of_import(node)
    return {name.removeprefix("cxr.") for name in names if name.startswith("cxr.")}


def names_of_import(node):
    """Files where the names are files, else the module itself."""
    files = set()
    for alias in node.names:
        name = f"{node.module}.{alias.name}"
        if (ROOT / (name.replace(".", "/") + ".py")).exists():
            files.add(name)
    return files or {node.module}


PATHS = sorted(PACKAGE.rglob("*.py"))
MODULES = {module_name(path): path for path in PATHS}
GRAPH = {name: imported(parse(path)) for name, path in MODULES.items()}


def level(name):
    return LEVELS[name.split(".")[0]]


def may_import(importer, other):
    if importer.startswith("datasets.") and other.startswith("methods."):
        return bool(FOR_DATASETS.search(other))
    if importer.startswith("steps.") and other.startswith("steps."):
        return importer.split(".")[1] == other.split(".")[1]
    if importer.startswith(("inference.", "steps.")) and other.startswith("datasets."):
        return other == "datasets.base"
    return level(other) <= level(importer)


def test_every_folder_has_a_level():
    names = {path.stem for path in PACKAGE.glob("*.py")}
    names |= {path.name for path in PACKAGE.iterdir() if (path / "__init__.py").exists()}
    assert names <= set(LEVELS)


def test_imports_are_read():
    assert "system.disk" in GRAPH["run_folder"]
    code = "import cxr.a\nfrom cxr.c.d import e\nimport os\nif TYPE_CHECKING:\n    import cxr.f"
    assert imported(ast.parse(code)) == {"a", "c.d"}


@pytest.mark.parametrize(
    "importer, other, allowed",
    [
        ("geometry.boxes", "metrics.froc", False),
        ("metrics.froc", "geometry.boxes", True),
        ("steps.train.engine", "steps.predict.predict_run", False),
        ("steps.train.engine", "steps.train.state", True),
        ("steps.train.engine", "datasets.rsna.dataset", False),
        ("steps.train.engine", "methods.detector.search", True),
        ("datasets.rsna.dataset", "methods.detector.image_scorer", True),
        ("datasets.rsna.dataset", "methods.detector.method", False),
        ("datasets.rsna.dataset", "networks.retinanet", True),
        ("datasets.rsna.dataset", "inference.run", True),
        ("methods.detector.search", "inference.run", False),
        ("data.dataset", "methods.base", False),
    ],
)
def test_the_rule_itself(importer, other, allowed):
    assert may_import(importer, other) is allowed


@pytest.mark.parametrize("importer", GRAPH)
def test_imports_go_down(importer):
    upward = [other for other in GRAPH[importer] if not may_import(importer, other)]
    assert not upward, f"cxr/{importer} imports {upward}"


def test_there_are_no_cycles():
    remaining = {}
    for name in GRAPH:
        remaining[name] = {other for other in GRAPH[name] if other in GRAPH}
    while remaining:
        free = [name for name, others in remaining.items() if not others & remaining.keys()]
        assert free, f"these files import one another in a circle: {sorted(remaining)}"
        for name in free:
            del remaining[name]


SCRIPTS = [*sorted(ROOT.glob("0*.py")), ROOT / "serve.py"]


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.stem)
def test_scripts_are_stories(path):
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 45
    tree = parse(path)
    assert ast.get_docstring(tree), "the docstring tells how to run it"
    assert "command_line" in imported(tree)
    assert tree.body[-1].test.left.id == "__name__", "spawned worker processes import the script"


def words_of_data_sets():
    """What only data sets and tasks.py may say: names of tasks, and slugs."""
    from cxr.tasks import TASKS

    words = {task.dataset.slug for task in TASKS.values()}
    words |= {path.name for path in (PACKAGE / "datasets").iterdir() if path.is_dir()}
    # Parts of the body and findings are no competition, nor is what is one's own, without a slug.
    return words - {"lungs", "pneumothorax", "phantom", "own", "", "__pycache__"}


def spoken(path):
    """Identifiers and strings of a file in lower case, without comments and docstrings."""
    text = path.read_text(encoding="utf-8")
    docstrings = set()
    for node in ast.walk(ast.parse(text)):
        has_docstring = isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef)
        if has_docstring and ast.get_docstring(node):
            docstrings.add(node.body[0].lineno)
    kinds = (tokenize.NAME, tokenize.STRING, getattr(tokenize, "FSTRING_MIDDLE", -1))
    words = []
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type in kinds and token.start[0] not in docstrings:
            words.append(token.string.lower())
    return words


# settings.py has the default task, and says in its reasons what the winners did.
SPEAKERS = ("tasks", "settings", "method_settings", "command_line")
NEUTRAL = [name for name in MODULES if not name.startswith("datasets.") and name not in SPEAKERS]


@pytest.mark.parametrize("name", NEUTRAL)
def test_only_data_sets_know_competitions(name):
    words = words_of_data_sets()
    assert {"rsna", "rsna-pneumonia-detection-challenge"} <= words
    known = []
    for text in spoken(MODULES[name]):
        known += words & set(re.split(r"[^a-z0-9-]+", text))
    assert not known, f"cxr/{name} speaks of a competition: {known}"


def test_spoken_leaves_out_docstrings_and_comments(tmp_path):
    path = tmp_path / "a.py"
    path.write_text(
        '"""Docs."""\ndef f():\n    """More\n    docs."""\n    return f"SAID {x}"  # comment\n'
    )
    words = set(re.findall(r"\w+", " ".join(spoken(path))))
    assert not {"docs", "more", "comment"} & words
    assert {"def", "f", "return", "said", "x"} <= words


@pytest.mark.parametrize("path", PATHS, ids=module_name)
def test_imports_inside_functions_are_excused(path):
    text = path.read_text(encoding="utf-8")
    lines = text.splitlines()
    for function in ast.walk(ast.parse(text)):
        if not isinstance(function, ast.FunctionDef):
            continue
        for node in ast.walk(function):
            if isinstance(node, ast.Import | ast.ImportFrom):
                near = lines[max(0, node.lineno - 3) : node.lineno]
                assert any("#" in line or '"""' in line for line in near), (
                    f"{path.name}:{node.lineno} does not say why it imports inside a function"
                )


@pytest.mark.parametrize("path", PATHS, ids=module_name)
def test_packages_that_may_be_missing_are_imported_late(path):
    for node in parse(path).body:
        if isinstance(node, ast.Import | ast.ImportFrom):
            module = getattr(node, "module", None) or node.names[0].name
            assert module.split(".")[0] not in LAZY


@pytest.mark.parametrize("path", PATHS, ids=module_name)
def test_one_idea_in_a_file(path):
    assert path.stem not in ("utils", "helpers", "common", "misc")
    limit = 800 if path.stem == "settings" else 500
    assert len(path.read_text(encoding="utf-8").splitlines()) <= limit


@pytest.mark.parametrize("path", PATHS, ids=module_name)
def test_no_except_is_bare(path):
    handlers = [node for node in ast.walk(parse(path)) if isinstance(node, ast.ExceptHandler)]
    assert all(handler.type is not None for handler in handlers)
