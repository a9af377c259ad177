"""What `manifest.json` says of the attention: its tensors, and the shapes they have in a call."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Mapping, NamedTuple, Optional, Sequence

import torch
from torch import Tensor

DTYPES = {"f32": torch.float32, "f16": torch.float16, "bf16": torch.bfloat16}


class Spec(NamedTuple):
    """A tensor. `per` says how it varies, which gives the axes in front of its own dims:

    token [B, T, heads, *dims], head [heads, *dims], shared [*dims], state [B, H, *dims],
    chunk [B, chunks, H, *dims].
    """

    name: str
    per: str
    dtype: torch.dtype
    dims: tuple[int, ...]
    dim_names: tuple[str, ...]
    heads_of: str
    """The input whose number of heads it has."""
    chunk: int
    """Tokens of a chunk, for what is stored per chunk; else 0."""
    intra: int
    """Tokens of a chunk, for what chunks give of inputs alone, whatever the form; else 0."""
    low: Optional[float]
    """Inputs are at least this, as far as the definition says; likewise `high`."""
    high: Optional[float]


class Form(NamedTuple):
    """An entry point: what it takes and what it gives."""

    name: str
    inputs: tuple[Spec, ...]
    outputs: tuple[Spec, ...]


class Signature(NamedTuple):
    """The attention: the function's name, its tensors and its forms."""

    name: str
    inputs: tuple[Spec, ...]
    outputs: tuple[Spec, ...]
    states: tuple[str, ...]
    ways: Mapping[str, str]
    """How each state runs through its sequence: "up", "down", or without a mask "both"."""
    levels: tuple[tuple[str, ...], ...]
    """The states by level. Those of level 0 write inputs only, those of level n reads of states below it."""
    positional: bool
    """The definition reads the places of tokens, or how many there are."""
    forms: Mapping[str, Form]
    cuda: Mapping[str, Any]
    """The kernels of each form for CUDA, as the manifest has them."""
    segments: Mapping[str, Sequence[Any]]
    """The launches that stand for a form by segments of the sequence, where that is possible."""
    kept: tuple[Spec, ...]
    """What the kernels of the forward keep for those of the gradients."""


class CallSizes(NamedTuple):
    """Run-time sizes of a call. `B` counts sequences; packed ones lie in one row of T tokens."""

    B: int
    T: int
    H: int
    T_total: int
    token_offset: int
    packed: bool
    heads: Mapping[str, int]
    """Heads of each token and head tensor that may have fewer than H."""
    segment: int = 0
    """Tokens of the segments that kernels cut sequences into; 0: they do not."""


def read_signature(folder: Path) -> Signature:
    """Reads the folder's manifest."""
    manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    if manifest["schema"] != 1:
        raise ImportError(f"{folder}: manifest.json is of version {manifest['schema']}, not 1")
    forms = [
        Form(form["name"], _specs(form["inputs"]), _specs(form["outputs"]))
        for form in manifest["forms"]
    ]
    (target,) = (target for target in manifest["targets"] if target["target"] == "cuda")
    cuda = {form["form"]: form for form in target["forms"]}
    segments = manifest.get("segments", {})
    return Signature(
        name=manifest["name"],
        inputs=_specs(manifest["inputs"]),
        outputs=_specs(manifest["outputs"]),
        states=tuple(state["name"] for state in manifest["states"]),
        ways={state["name"]: _way(state) for state in manifest["states"]},
        levels=_levels(manifest["states"]),
        positional=manifest["positional"],
        forms={form.name: form for form in forms},
        cuda=cuda,
        segments=segments,
        kept=(*_kept_of_chunks(cuda), *_kept_of_segments(segments, forms)),
    )


def _levels(states: Sequence[Any]) -> tuple[tuple[str, ...], ...]:
    count = max((state["level"] + 1 for state in states), default=0)
    return tuple(
        tuple(state["name"] for state in states if state["level"] == level)
        for level in range(count)
    )


def form_giving(signature: Signature, output: str) -> Optional[str]:
    """The form that has a tensor among its outputs, as `summary_S` or `d_summary_S`; None: no form has."""
    for form in signature.forms.values():
        if any(spec.name == output for spec in form.outputs):
            return form.name
    return None


def _kept_of_chunks(cuda: Mapping[str, Any]) -> list[Spec]:
    """Workspaces of the forward that hold all that some kernel of the gradients writes."""
    given = [spec for spec in map(spec_of, cuda["forward"]["workspaces"]) if spec.intra]
    spared: set[str] = set()
    for form in (form for name, form in cuda.items() if name.startswith("backward")):
        same = {spec.name for spec in map(spec_of, form["workspaces"]) if spec in given}
        for kernel in form["kernels"]:
            written = {x["name"] for x in kernel["buffers"] if x["access"] == "write"}
            spared |= written if written <= same else set()
    return [spec for spec in given if spec.name in spared]


def _kept_of_segments(
    segments: Mapping[str, Sequence[Any]], forms: Sequence[Form]
) -> list[Spec]:
    """What of the forward's segments those of the gradients begin with: a state for each."""
    known = {form.name: form for form in forms}
    gradients = [launches for name, launches in segments.items() if name.startswith("backward")]
    launches = [launch for launches in gradients for launch in launches]
    read = {
        launch["args"].get(spec.name, spec.name)
        for launch in launches
        if "again" not in launch
        for spec in known[launch["form"]].inputs
    }
    given = {
        launch["args"].get(spec.name, spec.name): spec
        for launch in launches
        if "again" in launch and "part" not in launch
        for spec in known[launch["form"]].outputs
    }
    return [
        spec._replace(name=name, per="state", chunk=0)
        for name, spec in given.items()
        if name in read
    ]


def _way(state: Mapping[str, Any]) -> str:
    if not state["causal"]:
        return "both"
    return "down" if state["reverse"] else "up"


def _specs(listed: list[Any]) -> tuple[Spec, ...]:
    return tuple(spec_of(spec) for spec in listed)


def spec_of(spec: Mapping[str, Any]) -> Spec:
    """A tensor as the manifest describes it."""
    bounds = spec["range"] or {"low": None, "high": None}
    return Spec(
        name=spec["name"],
        per=spec["per"],
        dtype=DTYPES[spec["dtype"]],
        dims=tuple(spec["dims"]),
        dim_names=tuple(spec["dimNames"]),
        heads_of=spec.get("headsOf", spec["name"]),
        chunk=spec.get("chunk", 0),
        intra=spec.get("intra", 0),
        # JSON has no infinity: no number is no bound.
        low=bounds["low"],
        high=bounds["high"],
    )


def shape_of(spec: Spec, sizes: CallSizes) -> tuple[int, ...]:
    """The whole shape of a tensor in a call."""
    B, T, H = sizes.B, sizes.T, sizes.H
    rows = 1 if sizes.packed else B
    own = sizes.heads.get(spec.heads_of, H)
    if spec.per == "token":
        return (rows, T, own, *spec.dims)
    if spec.per == "head":
        return (own, *spec.dims)
    if spec.per == "state":
        return (B, H, *spec.dims)
    if spec.per == "chunk":
        # Of packed sequences each may end in a chunk of its own that is not full.
        chunks = T // spec.chunk + B if sizes.packed else -(-T // spec.chunk)
        return (rows, chunks, H, *spec.dims)
    return spec.dims


def may_be_absent(spec: Spec) -> bool:
    """Is it a state that a form begins with, or a cotangent of one that it ends with? Without it that is zero."""
    return spec.per == "state" and spec.name.startswith(("initial_", "d_final_"))


def is_step(sizes: CallSizes) -> bool:
    """Is it a single token, of which nothing is kept?"""
    return not sizes.packed and sizes.T == 1


def key_of(spec: Spec) -> str:
    """What a tensor is known by in a call: intra-chunk values of one name may be of chunks of two lengths."""
    return f"{spec.name} of {spec.intra}" if spec.intra else spec.name


def share_shape(spec: Spec, sizes: CallSizes) -> tuple[int, ...]:
    """The shape of what each sequence and head adds to an output: see `sum_shares`."""
    if spec.per == "chunk":
        return shape_of(spec, sizes)
    if spec.per == "token":
        return (1 if sizes.packed else sizes.B, sizes.T, sizes.H, *spec.dims)
    return (sizes.B, sizes.H, *spec.dims)


def sum_shares(spec: Spec, shares: Tensor, sizes: CallSizes) -> Tensor:
    """An output with fewer heads than H, or one per head or shared, as the sum of its shares.

    Added up in float32, in an order that does not depend on anything else.
    """
    shape = shape_of(spec, sizes)
    if tuple(shares.shape) == shape:
        return shares
    if spec.per == "token":
        grouped = shares.unflatten(2, (shape[2], -1))
        total = grouped.sum(3, dtype=_wide(shares))
    elif spec.per == "head":
        grouped = shares.unflatten(1, (shape[0], -1))
        total = grouped.sum((0, 2), dtype=_wide(shares))
    else:
        total = shares.sum((0, 1), dtype=_wide(shares))
    return total.to(shares.dtype)


def _wide(x: Tensor) -> torch.dtype:
    return torch.float64 if x.dtype == torch.float64 else torch.float32
