"""The layers of the package: who may import whom, and that only tasks and scripts know a competition."""

import ast
import io
import re
import tokenize
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

# A file imports from lower layers and, without cycles, from its own; one that is not listed, nor its folder, is a driver.
LAYERS = {
    name: number
    for number, names in {
        0: "boxes config crops device disk distributed images lungs masks",
        1: "class_predictions data detection duplicates folds grad_cam mask_predictions metrics models onnx_files synthetic "
        "serving.deep_images serving.image_folder serving.overlay serving.structured_report training.augmentation "
        "training.checkpoint training.class_losses training.copy_paste training.losses training.manifest "
        "training.mask_augmentation training.mask_losses training.matching training.mean_teacher training.samplers "
        "training.schedules",
        2: "duplicate_sheet opacity_boxes panels predictions scoring serving.reading training.pseudo_labels",
        3: "tasks",
    }.items()
    for name in names.split()
}
TASKS, DRIVERS = 3, 4
# Packages that may be missing, or do more on import than one wants: imported in the function that needs them.
LAZY = {"kaggle", "onnxruntime", "pretrainedmodels", "highdicom"}


def modules():
    """[(name below cxr, path)], such as ("tasks.rsna", ...)."""
    paths = sorted((ROOT / "cxr").rglob("*.py"))
    return [
        (".".join(path.relative_to(ROOT / "cxr").with_suffix("").parts), path) for path in paths
    ]


def layer(name):
    return LAYERS.get(name, LAYERS.get(name.split(".")[0], DRIVERS))


def imported(tree):
    """Names below cxr that a file imports, such as {"disk", "tasks.rsna"}."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are written out, without leading dots"
            below = {f"{node.module}.{alias.name}" for alias in node.names}
            files = (
                {name for name in below if (ROOT / (name.replace(".", "/") + ".py")).exists()}
                if (node.module != "cxr")
                else below
            )
            found |= files or {node.module}
    return {name.removeprefix("cxr.") for name in found if name.startswith("cxr.")}


def may_import(importer, other):
    return layer(other) <= layer(importer) and not (
        layer(importer) == DRIVERS and layer(other) == TASKS
    )


def parse(path):
    return ast.parse(path.read_text(encoding="utf-8"))


MODULES = modules()
GRAPH = {name: imported(parse(path)) for name, path in MODULES if name != "__init__"}


def test_the_graph_is_read():
    assert {"disk", "config"} <= GRAPH["training.engine"] and "tasks.rsna" in GRAPH[
        "tasks.__init__"
    ]
    assert imported(
        ast.parse("import cxr.a\nfrom cxr import b\nfrom cxr.c.d import e\nimport os")
    ) == {"a", "b", "c.d"}


@pytest.mark.parametrize(
    "importer, other, allowed",
    [
        ("boxes", "metrics", False),
        ("metrics", "boxes", True),
        ("training.engine", "tasks", False),
        ("training.engine", "scoring.search", True),
        ("tasks.rsna", "training.engine", False),
        ("tasks.rsna", "models.retinanet", True),
        ("scoring.search", "training.engine", False),
    ],
)
def test_the_rule_itself(importer, other, allowed):
    assert may_import(importer, other) is allowed


@pytest.mark.parametrize("importer", GRAPH)
def test_imports_go_down(importer):
    upward = [other for other in GRAPH[importer] if not may_import(importer, other)]
    assert not upward, f"cxr/{importer} imports {upward} from a higher layer"


def test_there_are_no_cycles():
    remaining = {
        name: {
            other
            for other in GRAPH
            if any(other == i or other == f"{i}.__init__" for i in GRAPH[name])
        }
        for name in GRAPH
    }
    while remaining:
        free = [name for name, others in remaining.items() if not others & remaining.keys()]
        assert free, f"these files import one another in a circle: {sorted(remaining)}"
        for name in free:
            del remaining[name]


@pytest.mark.parametrize("path", sorted(ROOT.glob("0*.py")), ids=lambda path: path.stem)
def test_scripts_are_stories(path):
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 40
    tree = parse(path)
    assert ast.get_docstring(tree), "the docstring tells how to run it"
    assert "tasks" in imported(tree) and "config" in imported(tree)
    assert tree.body[-1].test.left.id == "__name__", "spawned worker processes import the script"


def test_nobody_imports_scripts_or_competitions_by_string():
    for name, path in MODULES:
        assert "importlib.import_module" not in path.read_text(encoding="utf-8"), name


def words_of_competitions():
    """What only tasks (and the writers of synthetic copies) may say, read from the tasks' source."""
    from_tasks = set()
    for name, path in MODULES:
        if name.startswith("tasks."):
            for node in ast.walk(parse(path)):
                if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") in (
                    "name",
                    "slug",
                ):
                    from_tasks.add(node.value.value)
    return from_tasks - {"lungs"}  # a part of the body, not a competition


def spoken(path):
    """Identifiers and strings of a file in lower case; comments and docstrings may give examples."""
    text = path.read_text(encoding="utf-8")
    docstrings = {
        node.body[0].lineno
        for node in ast.walk(ast.parse(text))
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef)) and ast.get_docstring(node)
    }
    kinds = (tokenize.NAME, tokenize.STRING, getattr(tokenize, "FSTRING_MIDDLE", -1))
    return [
        token.string.lower()
        for token in tokenize.generate_tokens(io.StringIO(text).readline)
        if token.type in kinds and token.start[0] not in docstrings
    ]


# config names the default task; the metrics and synthetic copies of layer 1 belong to one competition each.
NEUTRAL = [name for name, _ in MODULES if layer(name) not in (1, TASKS) and name != "config"]


@pytest.mark.parametrize("name", NEUTRAL)
def test_only_tasks_know_competitions(name):
    words = words_of_competitions()
    assert {"rsna", "rsna-pneumonia-detection-challenge"} <= words
    known = [text for text in spoken(dict(MODULES)[name]) if any(word in text for word in words)]
    assert not known, f"cxr/{name} speaks of a competition: {known}"


def test_spoken_leaves_out_docstrings_and_comments(tmp_path):
    path = tmp_path / "a.py"
    path.write_text(
        '"""Docs."""\ndef f():\n    """More\n    docs."""\n    return f"SAID {x}"  # comment\n'
    )
    assert not {"docs", "more", "comment"} & set(re.findall(r"\w+", " ".join(spoken(path))))
    assert {"def", "f", "return", "said", "x"} <= set(re.findall(r"\w+", " ".join(spoken(path))))


@pytest.mark.parametrize("path", [path for _, path in MODULES], ids=lambda path: path.stem)
def test_imports_inside_functions_are_excused(path):
    text = path.read_text(encoding="utf-8")
    functions = [node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.FunctionDef)]
    for node in (inner for function in functions for inner in ast.walk(function)):
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            module = node.module if isinstance(node, ast.ImportFrom) else node.names[0].name
            assert module.split(".")[0] in LAZY, (
                f"{path.name}:{node.lineno} imports {module} inside a function"
            )
            lines = text.splitlines()[max(0, node.lineno - 3) : node.lineno]
            assert any("#" in line for line in lines), f"{path.name}:{node.lineno} does not say why"


@pytest.mark.parametrize("path", [path for _, path in MODULES], ids=lambda path: path.stem)
def test_one_idea_in_a_file(path):
    assert path.stem not in ("utils", "helpers", "common", "misc")
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 320


@pytest.mark.parametrize("path", [path for _, path in MODULES], ids=lambda path: path.stem)
def test_no_except_is_bare(path):
    assert all(
        node.type is not None
        for node in ast.walk(parse(path))
        if isinstance(node, ast.ExceptHandler)
    )
