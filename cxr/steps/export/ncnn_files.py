"""An exported file as the two files of ncnn, an engine for ARM, LoongArch and RISC-V.

pnnx converts the ONNX file. Beside <name>.onnx stand <name>.ncnn.param, the graph, and
<name>.ncnn.bin, the weights; the metadata of the ONNX file says in which order its outputs are
there out0, out1, ..., and the SHA-256 of both, so that edge_predict.py knows what belongs together.
"""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx

from cxr.steps.export.onnx_files import replace_settings, stored_settings
from cxr.system.disk import atomic, sha256_of
from cxr.system.errors import InputError

ENDINGS = ("param", "bin")
# edge_predict.why_not_engine: why an engine is not to be used for a file, "" where it is right.
EngineCheck = Callable[[str, Path], str]


def write_ncnn(path: Path, why_not_engine: EngineCheck) -> None:
    """Write ncnn's files beside the file `path` in fp32, unless they are there.

    They are only kept when ncnn gives with them what stands in the file as the answer to a drawn
    picture. Raises InputError where it does not, or where a package is missing.
    """
    settings = stored_settings(path)
    beside = {ending: path.with_suffix(f".ncnn.{ending}") for ending in ENDINGS}
    if is_there(settings, beside):
        print(f"{beside['param']} is there, made from the same file: nothing to do")
        return
    program = find_pnnx()
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / path.name
        made = {ending: copy.with_suffix(f".ncnn.{ending}") for ending in ENDINGS}
        model = onnx.load(str(path))
        pool_greatest(model.graph)
        onnx.save(model, str(copy))
        convert(program, copy)
        if not all(file.exists() for file in made.values()):
            raise InputError(f"pnnx cannot convert {path}: use another engine than ncnn")
        settings["ncnn"] = {
            "outputs": [output.name for output in model.graph.output],
            "sha256": {ending: sha256_of(file) for ending, file in made.items()},
        }
        replace_settings(copy, settings)
        reason = why_not_engine("ncnn", copy)
        if reason:
            raise InputError(f"ncnn cannot be used for {path}: {reason}; take another engine")
        for ending, file in made.items():
            with atomic(beside[ending]) as temporary:
                shutil.copyfile(file, temporary)
    replace_settings(path, settings)
    size = beside["bin"].stat().st_size / 2**20
    print(f"for ncnn: {beside['param']} and .bin, {size:.1f} MiB; copy all three to the device")


def is_there(settings: dict[str, Any], files: dict[str, Path]) -> bool:
    """Whether the files are those that the settings speak of."""
    stored = settings.get("ncnn")
    if stored is None:
        return False
    for ending, file in files.items():
        if not file.exists() or sha256_of(file) != stored["sha256"][ending]:
            return False
    return True


def find_pnnx() -> Path:
    """pnnx's program. InputError where it or ncnn, which checks what it made, is missing."""
    spec = importlib.util.find_spec("pnnx")
    if spec is None or spec.origin is None or importlib.util.find_spec("ncnn") is None:
        raise InputError("--ncnn needs two packages more: pip install ncnn pnnx")
    return Path(spec.origin).with_name("pnnx")


def pool_greatest(graph: onnx.GraphProto) -> None:
    """Turn the greatest values of maps into poolings, in place: pnnx cannot convert the former.

    They are the same. The ONNX file keeps the former, since OpenCV 5 stumbles over such a pooling
    in int8.
    """
    for node in list(graph.node):
        if node.op_type != "ReduceMax":
            continue
        pooled = f"{node.output[0]}_pooled"
        pooling = onnx.helper.make_node("GlobalMaxPool", [node.input[0]], [pooled])
        flattening = onnx.helper.make_node("Flatten", [pooled], [node.output[0]], axis=1)
        position = list(graph.node).index(node)
        graph.node.remove(node)
        graph.node.insert(position, flattening)
        graph.node.insert(position, pooling)


def convert(program: Path, path: Path) -> None:
    """Let pnnx write what it makes of an ONNX file beside it, with weights in fp32."""
    subprocess.run([program, path.name, "fp16=0"], cwd=path.parent, capture_output=True)
