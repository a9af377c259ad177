"""The operators as PyTorch sees them: schemas, fakes, autograd, compilation, autocast, functorch."""

from __future__ import annotations

import pytest
import torch
from conftest import FORWARD, SIGNATURE, assert_close, call, forward_of, gradients, make_case
from load import attention, package

OPERATORS = package.binding.OPERATORS


def operator_arguments(case, requires_grad=False):
    tensors = [x.detach().clone().requires_grad_(requires_grad) for x in case.tensors]
    return tensors, case.cuts


@pytest.mark.parametrize("cuts", [None, [0, 3, 3, 8]], ids=["dense", "packed"])
def test_opcheck(device, cuts):
    case = make_case(device, T=8, cuts=cuts, H=4, grouped=True)
    tensors, packed = operator_arguments(case, requires_grad=True)
    torch.library.opcheck(OPERATORS.forward, (*tensors, packed, 0, 0))
    count = len(SIGNATURE.inputs)
    absent = [None for _ in tensors[count:]]
    torch.library.opcheck(OPERATORS.forward, (*tensors[:count], *absent, packed, 0, 0))
    tensors, packed = operator_arguments(case)
    kept = forward_of(tensors, packed)[len(FORWARD.outputs) :]
    torch.library.opcheck(OPERATORS.backward, (*tensors, *case.cotangents, *kept, packed, 0, 0))


@pytest.mark.parametrize("dynamic", [False, True], ids=["fixed sizes", "any size"])
def test_compiles_without_a_graph_break(device, dynamic):
    torch._dynamo.reset()
    compiled = torch.compile(call_function, backend="aot_eager", fullgraph=True, dynamic=dynamic)
    for T in (6, 9):
        case = make_case(device, T=T)
        leaves = [x.detach().clone().requires_grad_() for x in case.tensors]
        found = compiled(leaves, None)
        wanted_leaves = [x.detach().clone().requires_grad_() for x in case.tensors]
        wanted = call_function(wanted_leaves, None)
        for x, y in zip(found, wanted):
            assert torch.equal(x, y)
        grads = gradients(found, leaves, case.cotangents)
        for x, y in zip(grads, gradients(wanted, wanted_leaves, case.cotangents)):
            assert torch.equal(x, y)


def test_compiles_packed_sequences(device):
    torch._dynamo.reset()
    compiled = torch.compile(call_function, backend="aot_eager", fullgraph=True)
    case = make_case(device, cuts=[0, 3, 8])
    for x, y in zip(compiled(case.tensors, case.cuts), call_function(case.tensors, case.cuts)):
        assert torch.equal(x, y)


def call_function(tensors, cuts):
    count = len(SIGNATURE.inputs)
    states = dict(zip(SIGNATURE.states, tensors[count:]))
    initial = None if not states else states if len(states) > 1 else next(iter(states.values()))
    outputs, final = attention(
        *tensors[:count], initial_state=initial, output_final_state=True, cu_seqlens=cuts
    )
    outputs = [outputs] if isinstance(outputs, torch.Tensor) else list(outputs)
    return outputs + ([final] if isinstance(final, torch.Tensor) else list(final.values()))


@pytest.mark.parametrize("lower", [torch.bfloat16, torch.float16])
def test_autocast_casts_to_what_the_package_stores(device, lower):
    """Right dtypes stay; others become the package's where that is autocast's or float32; results are the same bits."""
    case = make_case(device, T=20)
    wanted = call(case)
    stored = [spec.dtype for spec in FORWARD.inputs]
    is_known = all(dtype in (torch.float32, lower) for dtype in stored)
    with torch.autocast(device.type, dtype=lower):
        for x, y in zip(call(case), wanted):
            assert x.dtype == y.dtype and torch.equal(x, y)
        for other in (torch.float32, torch.bfloat16, torch.float16):
            given = [x.to(other) for x in case.tensors]
            if not is_known and any(x.dtype != dtype for x, dtype in zip(given, stored)):
                if any(x.dtype != t and t not in (torch.float32, lower) for x, t in zip(given, stored)):
                    with pytest.raises(TypeError, match="this package is compiled for"):
                        call(case, given)
                continue
            same = call(case, [x.to(dtype) for x, dtype in zip(given, stored)])
            leaves = [x.requires_grad_() for x in given]
            found = call(case, leaves)
            for x, y in zip(found, same):
                assert x.dtype == y.dtype and torch.equal(x, y)
            for leaf, grad in zip(leaves, gradients(found, leaves, case.cotangents)):
                assert grad.dtype == leaf.dtype
        with pytest.raises(TypeError, match="is float64"):
            call(case, [x.double() for x in case.tensors])
    with pytest.raises(TypeError, match="this package is compiled for"):
        call(case, [x.half() if x.dtype != torch.float16 else x.float() for x in case.tensors])


def test_compiles_under_autocast(device):
    if any(spec.dtype not in (torch.float32, torch.bfloat16) for spec in FORWARD.inputs):
        pytest.skip("the package stores what autocast of bfloat16 does not know")
    torch._dynamo.reset()
    compiled = torch.compile(call_function, backend="aot_eager", fullgraph=True)
    case = make_case(device, T=6)
    given = [x.float() for x in case.tensors]
    with torch.autocast(device.type, dtype=torch.bfloat16):
        for x, y in zip(compiled(given, None), call_function(given, None)):
            assert torch.equal(x, y)


def test_forward_mode_is_refused(device):
    """Without a rule for them PyTorch takes tangents for zeros."""
    case = make_case(device, T=5)
    for index, x in enumerate(case.tensors):

        def one(changed, index=index):
            return call(case, [*case.tensors[:index], changed, *case.tensors[index + 1 :]])[0]

        for run in (
            lambda: torch.func.jvp(one, (x,), (torch.ones_like(x),)),
            lambda: torch.func.jacfwd(one)(x),
            lambda: torch.no_grad()(torch.func.jvp)(one, (x,), (torch.ones_like(x),)),
        ):
            with pytest.raises(NotImplementedError, match="no forward-mode derivatives"):
                run()


def test_functorch_gradients_are_right_or_refused(device):
    case = make_case(device, T=5)
    leaf = case.tensors[0].detach().clone().requires_grad_()

    def total(x):
        return call(case, [x, *case.tensors[1:]])[0].float().sum()

    (wanted,) = torch.autograd.grad(total(leaf), leaf)
    try:
        found = torch.func.grad(total)(case.tensors[0])
    except RuntimeError as error:
        assert "setup_context" in str(error)
    else:
        assert torch.equal(found, wanted)


def test_inputs_of_any_strides(device):
    case = make_case(device, T=20)
    wanted = call(case)
    strided = [
        x.transpose(1, 2).contiguous().transpose(1, 2) if x.dim() > 2 else x for x in case.tensors
    ]
    # Every second element of a row that is twice as long.
    strided = [
        torch.stack([x, x], dim=-1).flatten(-2)[..., ::2] if x.dim() > 0 else x for x in strided
    ]
    for x, y in zip(call(case, strided), wanted):
        assert torch.equal(x, y)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
@pytest.mark.parametrize("cuts", [None, [0, 40, 70]], ids=["dense", "packed"])
def test_calls_are_captured_in_cuda_graphs(cuts):
    case = make_case(torch.device("cuda"), cuts=cuts)
    other = make_case(torch.device("cuda"), cuts=cuts, seed=1)

    def step(leaves):
        found = call(case, leaves)
        return [*found, *gradients(found, leaves, case.cotangents)]

    leaves = [x.detach().clone().requires_grad_() for x in case.tensors]
    wanted = step([x.detach().clone().requires_grad_() for x in other.tensors])
    side = torch.cuda.Stream()
    with torch.cuda.stream(side):
        step(leaves)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=side):
        found = step(leaves)
    with torch.no_grad():
        for leaf, x in zip(leaves, other.tensors):
            leaf.copy_(x)
    graph.replay()
    for x, y in zip(found, wanted):
        assert torch.equal(x, y)


def test_fakes_need_no_memory():
    case = make_case(torch.device("cpu"), T=8)
    meta = [x.to("meta") for x in case.tensors]
    for spec, x, y in zip(FORWARD.outputs, call(case, meta), call(case)):
        assert x.is_meta and (x.shape, x.dtype) == (y.shape, y.dtype), spec.name


def test_no_second_derivatives(device):
    case = make_case(device, T=5)
    leaves = [x.detach().clone().requires_grad_() for x in case.tensors]
    result = call(case, leaves)[0].float().sum()
    grads = torch.autograd.grad(result, leaves, create_graph=True, allow_unused=True)
    active = next(g for g in grads if g is not None and g.requires_grad)
    with pytest.raises(NotImplementedError, match="no second derivatives"):
        active.float().sum().backward()


def test_vmap_says_that_it_is_not_needed(device):
    case = make_case(device, T=5)
    with pytest.raises(NotImplementedError, match="no rule for torch.vmap"):
        torch.vmap(lambda *x: OPERATORS.forward(*x, None, 0, 0))(*(x[None] for x in case.tensors))


def test_gradients_are_slopes():
    """The printed backward against finite differences of the printed forward, in float64."""
    formula, run_plain = package.formula, package.plain.run_plain
    case = make_case(torch.device("cpu"), T=5, B=1, H=2)
    forms = SIGNATURE.forms

    class Function(torch.autograd.Function):
        @staticmethod
        def forward(ctx, *tensors):
            ctx.save_for_backward(*tensors)
            return run_plain(
                "", forms["forward"], formula.forward, tensors, None, case.sizes, torch.float64
            )

        @staticmethod
        def backward(ctx, *cotangents):
            tensors = [*ctx.saved_tensors, *cotangents]
            return run_plain(
                "", forms["backward"], formula.backward, tensors, None, case.sizes, torch.float64
            )

    leaves = [x.double().requires_grad_() for x in case.tensors]
    assert torch.autograd.gradcheck(Function.apply, leaves, fast_mode=True)
