"""A wrong argument is a clear error that names it."""

from __future__ import annotations

import pytest
import torch
from conftest import SIGNATURE, make_case
from load import attention

CPU = torch.device("cpu")
INPUTS = SIGNATURE.inputs
TOKENS = [i for i, spec in enumerate(INPUTS) if spec.per == "token"]


def inputs_of(case):
    return list(case.tensors[: len(INPUTS)])


def fails(error, match, inputs, **options):
    with pytest.raises(error, match=match):
        attention(*inputs, **options)


@pytest.mark.parametrize("index", range(len(INPUTS)), ids=[spec.name for spec in INPUTS])
def test_each_input(index):
    name = INPUTS[index].name
    inputs = inputs_of(make_case(CPU, T=4))

    def changed(tensor):
        return [*inputs[:index], tensor, *inputs[index + 1 :]]

    fails(TypeError, f"{name} must be a tensor, not list", changed([1.0]))
    fails(TypeError, f"{name} is float64, but this package", changed(inputs[index].double()))
    fails(ValueError, rf"{name} has shape \[.*\], but \[.*\] is needed", changed(inputs[index][None]))
    if index > 0:
        fails(ValueError, f"{name} is on meta", changed(inputs[index].to("meta")))


@pytest.mark.skipif(len(TOKENS) < 2, reason="one token tensor cannot differ from another")
def test_token_tensors_must_agree():
    for axis, word in ((0, "B = 1"), (1, "T = 3")):
        inputs = inputs_of(make_case(CPU, T=4))
        second = TOKENS[1]
        inputs[second] = inputs[second].narrow(axis, 0, inputs[second].shape[axis] - 1)
        fails(ValueError, f"{INPUTS[second].name} has {word}", inputs)


@pytest.mark.skipif(len(TOKENS) < 2, reason="one token tensor cannot differ from another")
def test_heads_must_divide():
    inputs = inputs_of(make_case(CPU, T=4, H=3))
    second = TOKENS[1]
    inputs[second] = inputs[second][:, :, :2]
    fails(ValueError, f"{INPUTS[second].name} has 2 heads, which does not divide 3", inputs)


def test_cuts():
    case = make_case(CPU, T=4)
    inputs = inputs_of(case)
    cuts = torch.tensor([0, 4])
    fails(ValueError, "B is 1, not 2", inputs, cu_seqlens=cuts)
    inputs = inputs_of(make_case(CPU, T=4, B=1))
    fails(TypeError, "cu_seqlens must be a tensor, not list", inputs, cu_seqlens=[0, 4])
    fails(TypeError, "cu_seqlens is float32", inputs, cu_seqlens=cuts.float())
    fails(ValueError, r"cu_seqlens has shape \[1, 2\]", inputs, cu_seqlens=cuts[None])
    fails(ValueError, "cu_seqlens ends at 3", inputs, cu_seqlens=torch.tensor([0, 3]))
    fails(ValueError, "never falls", inputs, cu_seqlens=torch.tensor([0, 3, 2, 4]))
    fails(ValueError, "cu_seqlens is on meta", inputs, cu_seqlens=cuts.to("meta"))


@pytest.mark.skipif(not SIGNATURE.states, reason="this attention has no state")
def test_states():
    case = make_case(CPU, T=4)
    inputs, states = inputs_of(case), case.tensors[len(INPUTS) :]

    def initial(change):
        given = {name: change(x) for name, x in zip(SIGNATURE.states, states)}
        return given if len(given) > 1 else next(iter(given.values()))

    fails(TypeError, "initial_state.* is float64", inputs, initial_state=initial(torch.Tensor.double))
    fails(ValueError, "initial_state.* has shape", inputs, initial_state=initial(lambda x: x[..., 1:]))
    fails(ValueError, "initial_state.* N = 2, H = 2", inputs, initial_state=initial(lambda x: x[:1]))
    if len(states) > 1:
        fails(TypeError, "initial_state must be a dict", inputs, initial_state=states[0])
        only = {SIGNATURE.states[0]: states[0]}
        fails(ValueError, "initial_state holds", inputs, initial_state=only)
