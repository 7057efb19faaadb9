"""A torch module as a file for other programs: traced, written as ONNX or .pt2, run and compared with the module."""

from __future__ import annotations

import io
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from onnx import ModelProto

RUNS = 30  # of one input each; the latency is their median


def to_onnx(module: nn.Module, values: tuple[Tensor, ...], inputs: Sequence[str], outputs: Sequence[str],
            about: dict[str, object], *, dynamic: bool, optimize: bool = True) -> bytes:
    """A module as the bytes of an ONNX file, with ``about`` as its properties, each value in JSON.

    ``values`` are an example of its inputs; ``dynamic`` leaves the first dimension of all inputs and outputs open.
    ``optimize`` simplifies the graph, in a time that grows with the square of its size; onnxruntime does so too, each
    time it opens a file. The exporter is the one that the installed torch uses by default: from 2.9 on the one built on
    torch.export, before that the older one. Raises RuntimeError when it fails.
    """
    import onnx

    axes = {name: {0: "batch"} for name in (*inputs, *outputs)} if dynamic else None
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "module.onnx"
        try:
            torch.onnx.export(module, values, str(file), input_names=[*inputs], output_names=[*outputs],
                              dynamic_axes=axes, external_data=False, optimize=optimize, verbose=False)
        except RuntimeError as error:
            reason = (str(error).splitlines() or [""])[0]
            raise RuntimeError(
                f"torch {torch.__version__} cannot write this network as ONNX, try a newer one: {reason}"
            ) from error
        model = onnx.load(file)
    strip(model)
    onnx.helper.set_model_props(model, {name: json.dumps(value) for name, value in about.items()})
    onnx.checker.check_model(model, full_check=True)
    return model.SerializeToString()


def strip(model: ModelProto) -> None:
    """Take away what tells of the machine that wrote the file, such as the paths in stack traces."""
    graph = model.graph
    for part in (model, graph, *graph.node, *graph.input, *graph.output, *graph.initializer):
        part.doc_string = ""
        del part.metadata_props[:]
    del graph.value_info[:]  # shapes between the layers; a reader infers them


def to_program(module: nn.Module, values: tuple[Tensor, ...], name: str, about: dict[str, object]) -> bytes:
    """A module with the one input ``name``, whose first dimension is left open, as the bytes of a .pt2 file."""
    shapes = {name: {0: torch.export.Dim("batch")}}
    program = torch.export.export(module, values, dynamic_shapes=shapes, strict=False)
    program.graph.eliminate_dead_code()  # of steps without a result, which torch 2.6 could not read back
    for node in program.graph.nodes:
        node.meta.pop("stack_trace", None)  # paths of this machine stand there
    buffer = io.BytesIO()
    torch.export.save(program, buffer, extra_files={"classifier.json": json.dumps(about)})
    return buffer.getvalue()


def session(content: bytes, inputs: Sequence[str]) -> Callable[..., tuple[Tensor, ...]]:
    """An ONNX file as a function from tensors to tensors, run by onnxruntime on the CPU."""
    import onnxruntime

    opened = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])

    def call(*values: Tensor) -> tuple[Tensor, ...]:
        found = opened.run(None, dict(zip(inputs, (value.numpy() for value in values), strict=True)))
        return tuple(torch.from_numpy(np.asarray(array)) for array in found)

    return call


def compare(call: Callable[..., tuple[Tensor, ...]], module: nn.Module, batches: Sequence[tuple[Tensor, ...]]) -> float:
    """The largest difference of any output of ``call`` and ``module`` on the batches; not a number if an output is."""
    differences = [
        (ours.double() - theirs.double()).abs().max()
        for values in batches
        for ours, theirs in zip(call(*values), module(*values), strict=True)
    ]
    return torch.stack(differences).max().item()


def median_time(call: Callable[..., object], values: tuple[Tensor, ...]) -> float:
    """The median of some calls, in ms, after a few that are not counted."""
    times = []
    for _ in range(RUNS + 3):
        began = time.perf_counter()
        call(*values)
        times.append(1000 * (time.perf_counter() - began))
    return statistics.median(times[3:])


def check_place(path: str | Path) -> Path:
    """The path, where a file can be; ValueError for a folder."""
    path = Path(path)
    if path.is_dir():
        raise ValueError(f"{path} is a folder: give the name of a file")
    return path


def needs_packages() -> None:
    """Raise ValueError where the extra "export" is not installed."""
    for name in ("onnx", "onnxruntime", "onnxscript"):
        try:
            import_module(name)
        except ImportError as error:
            raise ValueError(f"ONNX needs {name}: install it with pip install 'cra_smra[export]'") from error
