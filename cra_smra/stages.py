"""The stages of any network: which modules can be one, and what they return, found by one pass over a black image."""

from __future__ import annotations

from collections.abc import Sequence
from difflib import get_close_matches
from math import gcd, isqrt
from typing import NamedTuple

import torch
from torch import Tensor, nn

LAYOUTS = ("nchw", "nhwc", "tokens")
MAX_PREFIX = 16  # class and register tokens; published ViTs have at most 5
SHOWN = 12  # names in an error message

# What the submodules returned, by their names, in the order in which they first did: the shape of each output, or the
# name of its type where it is no tensor.
Outputs = dict[str, list[tuple[int, ...] | str]]


class Stage(NamedTuple):
    """A module of a network after which CRAM can sit, and what it returns.

    ``layout`` is "nchw" (B, C, H, W), "nhwc" (B, H, W, C), or "tokens" (B, N, C): first
    ``prefix_tokens`` class and register tokens, then the ``grid`` (h, w), row by row.
    """

    name: str
    layout: str
    channels: int
    grid: tuple[int, int]
    prefix_tokens: int = 0


def to_map(output: Tensor, stage: Stage) -> Tensor:
    """What a stage returns, as a map (B, C, H, W), without copying. Raises RuntimeError
    for another number of tokens than the stage's.
    """
    if stage.layout == "nhwc":
        return output.permute(0, 3, 1, 2)
    if stage.layout == "tokens":
        height, width = stage.grid
        if output.shape[1] != stage.prefix_tokens + height * width:
            raise RuntimeError(
                f"stage {stage.name!r} must return {stage.prefix_tokens} + {height} x {width} tokens, "
                f"got {output.shape[1]}"
            )
        return output[:, stage.prefix_tokens :].transpose(1, 2).unflatten(2, stage.grid)
    return output


def from_map(x: Tensor, output: Tensor, stage: Stage) -> Tensor:
    """A map (B, C, H, W) in the layout of the stage's ``output``, whose class and
    register tokens stay as they are.
    """
    if stage.layout == "nhwc":
        return x.permute(0, 2, 3, 1)
    if stage.layout == "tokens":
        return torch.cat([output[:, : stage.prefix_tokens], x.flatten(2).transpose(1, 2)], dim=1)
    return x


def feature_maps(module: nn.Module, image_size: int | tuple[int, int] | None = None) -> dict[str, tuple[int, ...]]:
    """The names that ``attach`` takes as stages of ``module``, in the order in which
    they run, and the shape that each returns for one image of ``image_size`` pixels, an
    int or (H, W), by default what the module says of itself or else 224.
    """
    outputs, _ = dry_run(module, as_size(module, image_size))
    return {name: calls[0] for name, calls in outputs.items() if is_map(calls)}


def as_size(module: nn.Module, image_size: int | tuple[int, int] | None) -> tuple[int, int]:
    """(H, W): as given, or what ViTs of torchvision and the networks of timm say of
    themselves, or 224.
    """
    said = [
        image_size,
        getattr(module, "image_size", None),
        getattr(getattr(module, "patch_embed", None), "img_size", None),
        (getattr(module, "pretrained_cfg", None) or {}).get("input_size", ())[1:],
    ]
    for size in said:
        if isinstance(size, int):
            return size, size
        if isinstance(size, tuple | list) and len(size) == 2:
            return size[0], size[1]
    return 224, 224


def dry_run(
    module: nn.Module, size: tuple[int, int], stages: Sequence[str] = ()
) -> tuple[Outputs, dict[str, Tensor]]:
    """Run a black image through the module in evaluation mode; returns the outputs of
    its submodules, and for those in ``stages`` the tensor itself, with its graph.

    Raises ValueError when the module does not take the image.
    """
    outputs: Outputs = {}
    tensors: dict[str, Tensor] = {}

    def watch(name: str, part: nn.Module) -> torch.utils.hooks.RemovableHandle:
        def note(part: nn.Module, arguments: tuple[object, ...], output: object) -> None:
            is_tensor = isinstance(output, Tensor)
            outputs.setdefault(name, []).append(tuple(output.shape) if is_tensor else type(output).__name__)
            if is_tensor and name in stages:
                tensors[name] = output

        return part.register_forward_hook(note)

    first = next(module.parameters(), torch.empty(0))
    image = torch.zeros(1, 3, *size, device=first.device, dtype=first.dtype)
    modes = [(part, part.training) for part in module.modules()]
    handles = [watch(name, part) for name, part in module.named_modules() if name]
    try:
        for part, _ in modes:
            part.training = False  # not by eval(), which some modules take as a sign to rebuild themselves
        with torch.set_grad_enabled(bool(stages)):
            module(image)
    except Exception as error:  # whatever a stranger's forward raises
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ValueError(
            f"{type(module).__name__} cannot be run on an image of 3 x {size[0]} x {size[1]} ({reason}); "
            "image_size gives another size"
        ) from error
    finally:
        for part, mode in modes:
            part.training = mode
        for handle in handles:
            handle.remove()
    return outputs, tensors


def without_gradient(module: nn.Module, outputs: Sequence[Tensor]) -> list[str]:
    """The names of the parameters of a module, of those that are trained, on which none
    of these tensors depends.
    """
    parameters = {name: parameter for name, parameter in module.named_parameters() if parameter.requires_grad}
    sums = [x.sum() for x in outputs if x.requires_grad]
    if not parameters or not sums:
        return list(parameters)
    gradients = torch.autograd.grad(torch.stack(sums).sum(), list(parameters.values()), allow_unused=True)
    return [name for name, gradient in zip(parameters, gradients, strict=True) if gradient is None]


def is_map(calls: Sequence[tuple[int, ...] | str]) -> bool:
    """Whether these outputs for one image are a single map or sequence of tokens."""
    return len(calls) == 1 and not isinstance(calls[0], str) and len(calls[0]) in (3, 4) and calls[0][0] == 1


def check_stages(module: nn.Module, stages: Sequence[str], outputs: Outputs) -> None:
    """Raise ValueError unless each stage returns one map once, in the order given."""
    names = {name for name, _ in module.named_modules() if name}
    for name in stages:
        calls = outputs.get(name, [])
        if is_map(calls):
            continue
        if name not in names:
            reason = f"{type(module).__name__} has no module {name!r}"
        elif not calls:
            reason = f"{name!r} is not called as a whole"
        elif len(calls) > 1:
            reason = f"{name!r} is called {len(calls)} times in one pass"
        elif isinstance(calls[0], str):
            reason = f"{name!r} returns a {calls[0]}, not one tensor"
        else:
            reason = f"{name!r} returns {calls[0]} for one image, neither a map nor tokens"
        raise ValueError(f"{reason}; stages can be {choices(name, outputs)}")
    order = sorted(stages, key=list(outputs).index)
    if order != list(stages):
        raise ValueError(f"stages must be in the order in which they run, {', '.join(order)}; got {', '.join(stages)}")


def choices(name: str, outputs: Outputs) -> str:
    """Names for an error message: those inside or near ``name``, then the others from
    the outside in.
    """
    possible = sorted((other for other, calls in outputs.items() if is_map(calls)), key=lambda other: other.count("."))
    inside = [other for other in possible if other.startswith(f"{name}.")]
    ranked = list(dict.fromkeys([*inside, *get_close_matches(name, possible, n=4), *possible]))
    rest = f" and {len(ranked) - SHOWN} others, which feature_maps lists" if len(ranked) > SHOWN else ""
    return ", ".join(ranked[:SHOWN]) + rest


def find_stage(
    module: nn.Module,
    name: str,
    outputs: Outputs,
    size: tuple[int, int],
    layout: str | None = None,
    prefix_tokens: int | None = None,
    grid: tuple[int, int] | None = None,
) -> Stage:
    """Layout, channels and grid of a stage, from the outputs for an image of ``size``
    and from what is stated. Raises ValueError where they cannot be told.
    """
    shape = outputs[name][0]
    fits = {"nchw": 4, "nhwc": 4, "tokens": 3, None: len(shape)}
    if layout not in fits or fits[layout] != len(shape):
        raise ValueError(
            f"layout must be {' or '.join(LAYOUTS)} and fit what {name!r} returns, {shape}; got {layout!r}"
        )
    if len(shape) == 3:
        # The patches come from a convolution, and the tokens before them are what is left.
        convolutions = [
            calls[-1][2:] for other, calls in outputs.items() if isinstance(module.get_submodule(other), nn.Conv2d)
        ]
        return tokens_stage(name, shape, size, convolutions, prefix_tokens, grid)
    found = {
        "nchw": Stage(name, "nchw", shape[1], (shape[2], shape[3])),
        "nhwc": Stage(name, "nhwc", shape[3], (shape[1], shape[2])),
    }
    if layout is None:
        # Width and height of a map have the image's proportions.
        fitting = [key for key, stage in found.items() if stage.grid[0] * size[1] == stage.grid[1] * size[0]]
        if len(fitting) != 1:
            raise ValueError(f"{name!r} returns {shape} for an image of {size}: state layout='nchw' or 'nhwc'")
        layout = fitting[0]
    return found[layout]


def tokens_stage(
    name: str,
    shape: tuple[int, ...],
    size: tuple[int, int],
    convolutions: Sequence[tuple[int, ...]],
    prefix_tokens: int | None,
    grid: tuple[int, int] | None,
) -> Stage:
    """A stage that returns (1, N, C): as many patches as some convolution returned, a
    few tokens before them; or without any such tokens a grid of the image's
    proportions. Raises ValueError where neither fits, or both with another grid.
    """
    _, tokens, channels = shape
    height, width = size[0] // gcd(*size), size[1] // gcd(*size)
    scale = isqrt(max(0, tokens - (prefix_tokens or 0)) // (height * width))
    whole = (scale * height, scale * width)
    grids = [grid] if grid else [whole, *convolutions]
    before = {tokens - h * w: (h, w) for h, w in grids}  # by the number of tokens before the patches
    if prefix_tokens is not None:
        before = {rest: found for rest, found in before.items() if rest == prefix_tokens}
    elif not grid:
        patches = {rest for h, w in convolutions for rest in [tokens - h * w] if 0 <= rest <= MAX_PREFIX}
        before = {rest: found for rest, found in before.items() if rest == 0 or rest == min(patches, default=0)}
    if len(before) != 1 or min(before) < 0:
        raise ValueError(
            f"{name!r} returns {tokens} tokens for an image of {size}: state prefix_tokens and grid=(h, w) "
            f"with prefix_tokens + h * w = {tokens}"
        )
    [(prefix_tokens, grid)] = before.items()
    return Stage(name, "tokens", channels, grid, prefix_tokens)
