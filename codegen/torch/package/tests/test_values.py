"""Outputs, final states and gradients against the definition token by token, in float64."""

from __future__ import annotations

import math

import pytest
import torch
from conftest import (
    FORWARD,
    SIGNATURE,
    as_list,
    assert_close,
    call,
    exact,
    forward_of,
    gradients,
    make_case,
)

CASES = {
    "no token": {"T": 0},
    "one token": {"T": 1},
    "one chunk": {"T": 64},
    "chunks and a rest": {"T": 150},
    "a few tokens": {"T": 5, "B": 3},
    "heads that share": {"T": 70, "H": 4, "grouped": True},
    "packed": {"cuts": [0, 1, 1, 66, 130]},
    "packed, heads that share": {"cuts": [0, 40, 70], "H": 4, "grouped": True},
}


@pytest.mark.parametrize("options", CASES.values(), ids=CASES.keys())
def test_results_and_gradients(device, options):
    case = make_case(device, **options)
    results, grads = exact(case)
    leaves = [x.detach().clone().requires_grad_() for x in case.tensors]
    found = call(case, leaves)
    assert_close([spec.name for spec in FORWARD.outputs], found, results, "outputs")
    names = [f"d_{spec.name}" for spec in FORWARD.inputs]
    assert_close(names, gradients(found, leaves, case.cotangents), grads, "gradients")


@pytest.mark.skipif(
    "backward_fixed" not in SIGNATURE.forms, reason="no input is shared by all tokens"
)
@pytest.mark.parametrize("options", [{"T": 150}, {"cuts": [0, 1, 1, 66, 130]}], ids=["plain", "packed"])
def test_gradients_of_what_tokens_do_not_share(device, options):
    from load import package

    case = make_case(device, **options)
    results, grads = exact(case)
    shared = [spec.per in ("head", "shared") for spec in FORWARD.inputs]
    leaves = [x.detach().clone().requires_grad_(not held) for x, held in zip(case.tensors, shared)]
    found = call(case, leaves)
    own = [i for i, held in enumerate(shared) if not held]
    names = [f"d_{FORWARD.inputs[i].name}" for i in own]
    assert package.binding.OPERATORS.gradient_form(set(names)).name == "backward_fixed"
    given = gradients(found, [leaves[i] for i in own], case.cotangents)
    assert_close(names, given, [grads[i] for i in own], "gradients")


@pytest.mark.parametrize("options", [{"T": 150}, {"cuts": [0, 1, 1, 66, 130]}], ids=["plain", "packed"])
def test_gradients_from_what_the_forward_kept_have_the_same_bits(device, options):
    from load import package

    case = make_case(device, **options)
    operators = package.binding.OPERATORS
    segment = operators.segment_length("forward", case.sizes, device)
    kept = forward_of(case.tensors, case.cuts, segment=segment)[len(FORWARD.outputs) :]

    def backward(*kept):
        given = (*case.tensors, *case.cotangents, *kept, case.cuts, 0, segment)
        return [x.cpu() for x in as_list(operators.backward(*given))]

    found = backward(*kept)
    for x, y in zip(found, backward(*(x.new_empty(0) for x in kept))):
        assert torch.equal(x, y)
    if any(x.numel() > 0 for x in kept):
        spoilt = backward(*(torch.full_like(x, torch.nan) for x in kept))
        assert any(x.isnan().any() for x in spoilt), "nothing of it is read"


@pytest.mark.skipif(
    "step" not in SIGNATURE.forms, reason="every token of this attention needs the whole sequence"
)
def test_a_sequence_is_continued_from_its_state(device):
    case = make_case(device, T=9)
    whole = call(case)
    count, outputs = len(SIGNATURE.inputs), len(SIGNATURE.outputs)
    states = case.tensors[count:]
    parts = []
    for start, end in ((0, 6), (6, 7), (7, 8), (8, 9)):
        tokens = [
            x[:, start:end] if spec.per == "token" else x
            for spec, x in zip(SIGNATURE.inputs, case.tensors)
        ]
        results = _continued(case, [*tokens, *states], start)
        parts.append(results[:outputs])
        states = results[outputs:]
    joined = [torch.cat(pieces, dim=1) for pieces in zip(*parts)]
    assert_close([spec.name for spec in FORWARD.outputs], [*joined, *states], whole, "outputs")


def _continued(case, tensors, start):
    return forward_of(tensors, None, start)[: len(FORWARD.outputs)]


def test_without_a_state_it_starts_at_zero(device):
    case = make_case(device, T=20)
    count = len(SIGNATURE.inputs)
    zeros = [torch.zeros_like(x) for x in case.tensors[count:]]
    from load import attention

    # Given zeros, and zeros as the final states' cotangents, against none of either.
    leaves = [[x.detach().clone().requires_grad_() for x in case.tensors[:count]] for _ in range(2)]
    given = call(case, leaves[0] + zeros)
    outputs, final = attention(*leaves[1])
    assert final is None
    outputs = [outputs] if isinstance(outputs, torch.Tensor) else outputs
    for x, y in zip(outputs, given):
        assert torch.equal(x, y)
    own = case.cotangents[: len(outputs)]
    none = [torch.zeros_like(x) for x in case.cotangents[len(outputs) :]]
    wanted = gradients(given, leaves[0], [*own, *none])
    for spec, x, y in zip(SIGNATURE.inputs, gradients(outputs, leaves[1], own), wanted):
        assert torch.equal(x, y), spec.name


def test_packed_sequences_do_not_see_each_other(device):
    case = make_case(device, cuts=[0, 30, 50])
    changed = [
        torch.cat([x[:, :30], torch.zeros_like(x[:, 30:])], dim=1) if spec.per == "token" else x
        for spec, x in zip(FORWARD.inputs, case.tensors)
    ]
    for spec, x, y in zip(SIGNATURE.outputs, call(case), call(case, changed)):
        assert torch.equal(x[:, :30], y[:, :30]), spec.name


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_what_is_no_number_stays_behind(value):
    # On the CPU: on a GPU, tensor cores multiply what a mask leaves out, by zero.
    case = make_case(torch.device("cpu"), T=70, B=2)
    before = call(case)
    is_causal = set(SIGNATURE.ways.values()) == {"up"}
    for i, spec in enumerate(FORWARD.inputs[: len(SIGNATURE.inputs)]):
        if spec.per != "token":
            continue
        tensors = [x.clone() for x in case.tensors]
        tensors[i][0, 37, 0] = value
        for output, x, y in zip(SIGNATURE.outputs, before, call(case, tensors)):
            if is_causal:
                assert torch.equal(x[0, :37, 0], y[0, :37, 0]), f"{output.name} of {spec.name}"
            if x.shape[2] == tensors[i].shape[2]:
                assert torch.equal(x[0, :, 1:], y[0, :, 1:]), f"{output.name} of {spec.name}"
            assert torch.equal(x[1], y[1]), f"{output.name} of {spec.name}"
