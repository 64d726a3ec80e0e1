"""Programs of torch.export (.pt2), read only as far as nothing in them can run code.

torch.export.load unpickles some entries of an archive, evaluates its symbolic expressions as
Python, and calls whatever attribute of torch its nodes name. So the archive is checked first: only
raw tensors, only ATen operators, only simple expressions of sizes. What was checked, and nothing
else, is then written into a new archive in memory, and that one is loaded.
"""

from __future__ import annotations

import io
import json
import re
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from embeddings.errors import SourceError

_MODEL = "models/model.json"
_WEIGHTS = "data/weights/model_weights_config.json"
_CONSTANTS = "data/constants/model_constants_config.json"
_SAMPLES = "data/sample_inputs/model.pt"
_KEPT = re.compile(r"data/weights/weight_\d+|data/constants/tensor_\d+")
_RAW = re.compile(r"weight_\d+|tensor_\d+")
_OPERATOR = re.compile(r"torch\.ops\.aten\.(\w+)\.\w+")
_SIZES = re.compile(
    r"_operator\.(add|sub|mul|floordiv|mod|neg|eq|ne|lt|le|gt|ge|getitem)"
    r"|torch\.sym_(max|min|not|int|float|sum)"
)
_FORBIDDEN_OPERATORS = {"from_file", "set_"}
_FORBIDDEN_ARGUMENTS = {"as_custom_obj", "as_operator", "as_graph"}
_WORDS = {
    "Symbol", "Integer", "Add", "Mul", "Pow", "Max", "Min", "Mod", "FloorDiv", "PythonMod",
    "CleanDiv", "CeilDiv", "integer", "positive", "nonnegative", "True", "False",
}  # fmt: skip
_SYMBOL = re.compile(r"Symbol\('[a-z]\d+'")
_EXPRESSION = re.compile(r"[\w\s+\-*/(),=<>]*")
_CONTAINERS = {None, "builtins.tuple", "builtins.list", "builtins.dict"}


@dataclass(frozen=True, slots=True)
class Told:
    """A tensor that goes in or comes out."""

    name: str
    dtype: str
    shape: tuple[int | None, ...]


@dataclass(frozen=True, slots=True)
class Program:
    """A loaded program."""

    module: Any
    inputs: tuple[Told, ...]
    outputs: tuple[Told, ...]


def load_program(path: Path, content: bytes) -> Program:
    """Load the program in an archive. Raises SourceError where it is damaged or could run code."""
    try:
        clean = _rewritten(_entries(path, content), path)
        program = import_module("torch").export.load(io.BytesIO(clean))
        module = program.module(check_guards=False)
        told = {node.name: node.meta.get("val") for node in program.graph.nodes}
        signature = program.graph_signature
        inputs = tuple(_told(name, told) for name in signature.user_inputs)
        outputs = tuple(_told(name, told) for name in signature.user_outputs)
    except SourceError:
        raise
    except Exception as error:  # torch fails on damaged files in any way
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        raise SourceError(
            f"'{path}' is damaged, or of a version of torch.export that this torch does not read "
            f"({reason}). Export it again with the torch installed here, or to ONNX."
        ) from error
    return Program(module, inputs, outputs)


def _told(name: Any, values: dict[str, Any]) -> Told:
    value = values.get(name)
    shape = tuple(size if type(size) is int else None for size in getattr(value, "shape", ()))
    return Told(str(name), str(getattr(value, "dtype", "no tensor")), shape)


def _entries(path: Path, content: bytes) -> dict[str, bytes]:
    """Read all entries of the archive by their names below its one folder."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        entries: dict[str, bytes] = {}
        for info in archive.infolist():
            name = info.filename.partition("/")[2]
            if name in entries:
                raise _refused(path, f"it holds '{name}' twice")
            entries[name] = archive.read(info)
    return entries


def _rewritten(entries: dict[str, bytes], path: Path) -> bytes:
    """Check every entry and write those needed into a new archive."""
    kept = {name: data for name, data in entries.items() if _KEPT.fullmatch(name)}
    for name in (_WEIGHTS, _CONSTANTS):
        _check_tensors(json.loads(entries[name]), path)
        kept[name] = entries[name]
    model = json.loads(entries[_MODEL])
    _check_program(model, path)
    # Guards are Python source: sizes are checked against the side-car instead.
    model["guards_code"] = []
    kept[_MODEL] = json.dumps(model).encode()
    kept[_SAMPLES] = _samples()
    package = import_module("torch.export.pt2_archive._package")
    buffer = io.BytesIO()
    with package.PT2ArchiveWriter(buffer) as writer:
        for name, data in kept.items():
            writer.write_bytes(name, data)
    return buffer.getvalue()


def _samples() -> bytes:
    """Return sample inputs that hold nothing, in the place of the file's pickled ones."""
    buffer = io.BytesIO()
    import_module("torch").save(((), {}), buffer)
    return buffer.getvalue()


def _check_tensors(config: Any, path: Path) -> None:
    for name, entry in config["config"].items():
        if entry["use_pickle"] or not _RAW.fullmatch(entry["path_name"]):
            raise _refused(path, f"'{name}' is pickled")


def _check_program(model: Any, path: Path) -> None:
    for key, value in _walk(model):
        if key == "target" and not _known_operator(value):
            raise _refused(path, f"it calls {value!r}")
        if key in _FORBIDDEN_ARGUMENTS:
            raise _refused(path, f"a node takes {key.removeprefix('as_')}")
        if key == "expr_str" and not _simple(value):
            raise _refused(path, f"a size is {str(value)[:60]!r}")
        if key in {"in_spec", "out_spec"}:
            kinds = {kind for name, kind in _walk(json.loads(value)) if name == "type"}
            if not kinds <= _CONTAINERS:
                raise _refused(path, f"it takes or gives {kinds - _CONTAINERS}")


def _walk(value: Any) -> Iterator[tuple[str, Any]]:
    """All keys and values, however deep."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield key, inner
            yield from _walk(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _walk(inner)


def _known_operator(target: Any) -> bool:
    if not isinstance(target, str):
        return False
    match = _OPERATOR.fullmatch(target)
    if match:
        return match[1] not in _FORBIDDEN_OPERATORS and not match[1].startswith("_unsafe")
    return _SIZES.fullmatch(target) is not None


def _simple(expression: Any) -> bool:
    """Whether a size is plain arithmetic of numbers and symbols like s77."""
    if not isinstance(expression, str):
        return False
    bare = _SYMBOL.sub("Symbol(", expression)
    if not _EXPRESSION.fullmatch(bare):
        return False
    words = re.findall(r"[^\W\d]\w*", bare)
    return all(word in _WORDS or re.fullmatch(r"[a-z]\d+", word) for word in words)


def _refused(path: Path, reason: str) -> SourceError:
    return SourceError(
        f"'{path}' is refused: {reason}, and loading it could run code. Export a model of plain "
        "ATen operators in eval mode, or export it to ONNX."
    )
