"""A wrong argument is a clear error that names it."""

from __future__ import annotations

import pytest
import torch
from conftest import SIGNATURE, make_case
from load import attention, package

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


def guarded(x):
    """The same tensor between numbers that spoil every sum."""
    size = max(4096, x.numel())
    memory = torch.full((2 * size + x.numel(),), float("nan"), dtype=x.dtype, device=x.device)
    memory[size : size + x.numel()] = x.flatten()
    return memory[size : size + x.numel()].view(x.shape)


@pytest.mark.parametrize(
    ("cuts", "as_if"),
    [
        ([-50, 20, 1000], [0, 20, 70]),
        ([0, 2**30, 2**30], [0, 70, 70]),
        ([-(2**31), 2**31 - 1, 70], [0, 70, 70]),
        ([70, 30, 0], None),
        ([0, 90, 30, 70], None),
        ([60, 10, 65, -3, 70], None),
    ],
)
def test_wrong_cuts_are_told_or_stay_inside(device, monkeypatch, cuts, as_if):
    """On a CPU they are checked; kernels clamp them and read no other memory, unless they are asked to check."""
    case = make_case(device, cuts=as_if or [0, *[70] * (len(cuts) - 1)])
    inputs = [guarded(x) for x in case.tensors[: len(INPUTS)]]
    wrong = torch.tensor(cuts, device=device)
    if package.binding.OPERATORS.implementations[device.type.upper()].length is None:
        fails(ValueError, "cu_seqlens", inputs, cu_seqlens=wrong)
        return
    leaves = [x.requires_grad_() for x in inputs]
    outputs, _ = attention(*leaves, cu_seqlens=wrong)
    outputs = [outputs] if isinstance(outputs, torch.Tensor) else outputs
    torch.autograd.grad(sum(x.float().sum() for x in outputs), leaves, allow_unused=True)
    if as_if is not None:
        wanted, _ = attention(*inputs, cu_seqlens=case.cuts)
        wanted = [wanted] if isinstance(wanted, torch.Tensor) else wanted
        for x, y in zip(outputs, wanted):
            assert torch.equal(x, y) and not x.isnan().any()
    elif cuts[:2] == [0, 90]:
        # The first sequence is all tokens.
        assert not any(x.isnan().any() for x in outputs)
    monkeypatch.setenv("LASPC_CHECK_CUTS", "1")
    fails(ValueError, "cu_seqlens", inputs, cu_seqlens=wrong)


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
