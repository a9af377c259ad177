"""What the tests share: cases, random inputs, and the float64 result of the token loop."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import NamedTuple, Optional

import pytest
import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parent))

from load import FOLDER, attention  # noqa: E402
from package_under_test.binding import OPERATORS, SIGNATURE  # noqa: E402
from package_under_test.plain import run_plain  # noqa: E402
from package_under_test.signature import CallSizes, Spec, shape_of  # noqa: E402
from token_loop import forward as token_loop  # noqa: E402

TOLERANCES = json.loads((FOLDER / "tests" / "tolerances.json").read_text())
STORED = {torch.float32: "f32", torch.float16: "f16", torch.bfloat16: "bf16"}
FORWARD = SIGNATURE.forms["forward"]
DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]


@pytest.fixture(params=DEVICES)
def device(request: pytest.FixtureRequest) -> torch.device:
    return torch.device(request.param)


class Case(NamedTuple):
    """A call: sizes, inputs and initial states, cuts of packed sequences, cotangents of all results."""

    sizes: CallSizes
    tensors: list[Tensor]
    cuts: Optional[Tensor]
    cotangents: list[Tensor]


def make_case(
    device: torch.device,
    *,
    T: int = 70,
    B: int = 2,
    H: int = 2,
    grouped: bool = False,
    cuts: Optional[list[int]] = None,
    seed: int = 0,
) -> Case:
    """Random tensors; `grouped`: every token tensor but the first has one head only."""
    tokens = [spec.name for spec in SIGNATURE.inputs if spec.per == "token"]
    heads = {name: 1 for name in tokens[1:]} if grouped else {}
    sequences = B if cuts is None else len(cuts) - 1
    sizes = CallSizes(sequences, T if cuts is None else cuts[-1], H, 0, 0, cuts is not None, heads)
    sizes = sizes._replace(T_total=sizes.T)
    generator = torch.Generator().manual_seed(seed)
    tensors = [_draw(spec, shape_of(spec, sizes), generator) for spec in SIGNATURE.inputs]
    tensors += _draw_states(sizes, generator)
    cotangents = [
        torch.randn(shape_of(spec, sizes), generator=generator).to(spec.dtype)
        for spec in FORWARD.outputs
    ]
    return Case(
        sizes,
        [x.to(device) for x in tensors],
        None if cuts is None else torch.tensor(cuts, dtype=torch.int32, device=device),
        [x.to(device) for x in cotangents],
    )


def _draw(spec: Spec, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """Normal numbers, or inside the declared range."""
    if spec.low is not None and spec.high is not None:
        x = spec.low + (spec.high - spec.low) * torch.rand(shape, generator=generator)
    else:
        x = torch.randn(shape, generator=generator)
        if spec.high is not None:
            x = spec.high - x.abs()
        elif spec.low is not None:
            x = spec.low + x.abs()
    return x.to(spec.dtype)


def _draw_states(sizes: CallSizes, generator: torch.Generator) -> list[Tensor]:
    """What a few random tokens leave. Of other states a rule may make nothing: a normaliser near zero, say."""
    sizes = sizes._replace(T=8, T_total=8, packed=False)
    count = len(SIGNATURE.inputs)
    drawn = [_draw(spec, shape_of(spec, sizes), generator).double() for spec in SIGNATURE.inputs]
    zeros = [
        torch.zeros(shape_of(spec, sizes), dtype=torch.float64) for spec in FORWARD.inputs[count:]
    ]
    results = run_plain("", FORWARD, token_loop, drawn + zeros, None, sizes, torch.float64)
    states = results[len(SIGNATURE.outputs) :]
    return [x.to(spec.dtype) for spec, x in zip(FORWARD.inputs[count:], states)]


def call(case: Case, tensors: Optional[list[Tensor]] = None) -> list[Tensor]:
    """The public function's outputs, then its final states."""
    tensors = case.tensors if tensors is None else tensors
    count = len(SIGNATURE.inputs)
    states = dict(zip(SIGNATURE.states, tensors[count:]))
    initial = None if not states else states if len(states) > 1 else next(iter(states.values()))
    outputs, final = attention(
        *tensors[:count], initial_state=initial, output_final_state=True, cu_seqlens=case.cuts
    )
    outputs = [outputs] if isinstance(outputs, Tensor) else list(outputs)
    finals = [final] if isinstance(final, Tensor) else list(final.values())
    return outputs + finals


def forward_of(tensors, cuts, token_offset=0, segment=0) -> list[Tensor]:
    """What the operator gives: outputs, final states, and what is kept for the gradients."""
    return as_list(OPERATORS.forward(*tensors, cuts, token_offset, segment))


def as_list(results) -> list[Tensor]:
    return [results] if isinstance(results, Tensor) else list(results)


def exact(case: Case) -> tuple[list[Tensor], list[Tensor]]:
    """Results and gradients in float64, by the token loop and autograd."""
    leaves = [x.detach().double().requires_grad_() for x in case.tensors]
    results = run_plain(
        SIGNATURE.name, FORWARD, token_loop, leaves, case.cuts, case.sizes, torch.float64
    )
    return list(results), gradients(results, leaves, [x.double() for x in case.cotangents])


def gradients(results, leaves, cotangents) -> list[Tensor]:
    """Of the sum of results times cotangents; zeros where nothing depends on a leaf."""
    active = [(r, c) for r, c in zip(results, cotangents) if r.requires_grad]
    if not active:
        return [torch.zeros_like(leaf) for leaf in leaves]
    outputs, weights = zip(*active)
    found = torch.autograd.grad(outputs, leaves, weights, allow_unused=True)
    return [torch.zeros_like(x) if g is None else g for x, g in zip(leaves, found)]


def assert_close(names, found, wanted, kind: str) -> None:
    """RMS(wanted - found) / RMS(wanted) against the table, for each tensor."""
    for name, x, y in zip(names, found, wanted):
        assert x.shape == y.shape, name
        error = (y.double() - x.double()).square().mean().sqrt()
        scale = y.double().square().mean().sqrt()
        allowed = TOLERANCES[kind][STORED[x.dtype]]
        assert bool(error <= allowed * scale) or x.numel() == 0, f"{name}: {error} of {scale}"
