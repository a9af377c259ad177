"""Arguments as the caller gave them: what is wrong with them, in the caller's words."""

from __future__ import annotations

import os
from typing import Mapping, Optional, Sequence, TypeVar

import torch
from torch import Tensor
from torch.autograd import forward_ad

from .signature import CallSizes, Signature, Spec

DEVICES = ("cpu", "cuda", "meta")

Given = TypeVar("Given")


def under_autocast(specs: Sequence[Spec], given: Sequence[Given], device_type: str) -> list[Given]:
    """The tensors as autocast has them: those stored in its dtype like a matmul's, those stored in float32 like a softmax's.

    As with PyTorch's own operators float64 is left alone; and so is what the package has in neither of the two.
    """
    if device_type not in ("cpu", "cuda") or not torch.is_autocast_enabled(device_type):
        return list(given)
    known = (torch.float32, torch.get_autocast_dtype(device_type))
    return [
        x.to(spec.dtype)
        if isinstance(x, Tensor) and _is_cast(x) and spec.dtype in known and x.dtype != spec.dtype
        else x
        for spec, x in zip(specs, given)
    ]


def _is_cast(x: Tensor) -> bool:
    return x.dtype in (torch.float32, torch.float16, torch.bfloat16)


def _refuse_tangents(name: str, given: Sequence[Optional[Tensor]]) -> None:
    """Without a rule for them PyTorch would take tangents for zeros."""
    for x in given:
        if isinstance(x, Tensor) and forward_ad.unpack_dual(x).tangent is not None:
            raise NotImplementedError(
                f"{name} has no forward-mode derivatives (torch.func.jvp, jacfwd, hessian): it has "
                "gradients, of which torch.func.vjp and jacrev are made"
            )


def checked_sizes(
    signature: Signature,
    inputs: Sequence[Tensor],
    states: Sequence[Optional[Tensor]],
    cu_seqlens: Optional[Tensor],
    token_offset: int = 0,
) -> CallSizes:
    """The sizes of a call.

    Raises TypeError for what is no tensor or of another dtype, ValueError for a wrong shape or device,
    NotImplementedError for tensors with forward-mode tangents.
    """
    name = signature.name
    _refuse_tangents(name, [*inputs, *states])
    first = inputs[0]
    _check_tensor(name, signature.inputs[0].name, signature.inputs[0], first, first)
    if first.device.type not in DEVICES:
        raise ValueError(f"{name}: {signature.inputs[0].name} is on {first.device}, not on cpu or cuda")
    for spec, tensor in zip(signature.inputs, inputs):
        _check_tensor(name, spec.name, spec, tensor, first)
    rows, T, heads = _token_sizes(name, signature.inputs, inputs)
    H = max([1, *heads.values()])
    for input_name, own in heads.items():
        if own == 0 or H % own != 0:
            raise ValueError(f"{name}: {input_name} has {own} heads, which does not divide {H}")
    B = rows
    if cu_seqlens is not None:
        B = _check_cuts(name, cu_seqlens, rows, first)
    sizes = CallSizes(
        B=B,
        T=T,
        H=H,
        T_total=T + token_offset,
        token_offset=token_offset,
        packed=cu_seqlens is not None,
        heads=heads,
    )
    for state_name, state in zip(signature.states, states):
        if state is not None:
            _check_state(signature, state_name, state, sizes, first)
    return sizes


def _check_tensor(name: str, argument: str, spec: Spec, tensor: Tensor, first: Tensor) -> None:
    if not isinstance(tensor, Tensor):
        raise TypeError(f"{name}: {argument} must be a tensor, not {type(tensor).__name__}")
    if tensor.dtype != spec.dtype:
        raise TypeError(
            f"{name}: {argument} is {_word(tensor.dtype)}, but this package is compiled for "
            f"{_word(spec.dtype)}"
        )
    if tensor.device != first.device:
        raise ValueError(f"{name}: {argument} is on {tensor.device}, the first input on {first.device}")
    leading = LEADING_AXES[spec.per]
    axes = len(leading) + len(spec.dims)
    if tensor.dim() != axes or tuple(tensor.shape[len(leading) :]) != spec.dims:
        raise ValueError(
            f"{name}: {argument} has shape {list(tensor.shape)}, but {described(spec)} is needed"
        )


LEADING_AXES: Mapping[str, tuple[str, ...]] = {
    "token": ("B", "T", "heads"),
    "head": ("heads",),
    "shared": (),
    "state": ("N", "H"),
}


def described(spec: Spec) -> str:
    """A tensor's shape in words: [B, T, heads, K = 64]."""
    own = [
        str(size) if dim == str(size) else f"{dim} = {size}"
        for dim, size in zip(spec.dim_names, spec.dims)
    ]
    return f"[{', '.join([*LEADING_AXES[spec.per], *own])}]"


def _token_sizes(
    name: str, specs: Sequence[Spec], inputs: Sequence[Tensor]
) -> tuple[int, int, dict[str, int]]:
    """Rows of the batch, tokens, and the heads of each tensor; all token tensors must agree."""
    heads: dict[str, int] = {}
    rows, T, model = 1, 0, ""
    for spec, tensor in zip(specs, inputs):
        if spec.per == "head":
            heads[spec.name] = tensor.shape[0]
        if spec.per != "token":
            continue
        heads[spec.name] = tensor.shape[2]
        if model == "":
            rows, T, model = tensor.shape[0], tensor.shape[1], spec.name
        if tensor.shape[0] != rows:
            raise ValueError(f"{name}: {spec.name} has B = {tensor.shape[0]}, but {model} has {rows}")
        if tensor.shape[1] != T:
            raise ValueError(f"{name}: {spec.name} has T = {tensor.shape[1]}, but {model} has {T}")
    return rows, T, heads


def _check_cuts(name: str, cu_seqlens: Tensor, rows: int, first: Tensor) -> int:
    """The number of packed sequences. What the cuts are is looked at where that need not wait for a GPU."""
    if not isinstance(cu_seqlens, Tensor):
        raise TypeError(f"{name}: cu_seqlens must be a tensor, not {type(cu_seqlens).__name__}")
    if cu_seqlens.dtype != torch.int32 and cu_seqlens.dtype != torch.int64:
        raise TypeError(f"{name}: cu_seqlens is {_word(cu_seqlens.dtype)}, not int32 or int64")
    if cu_seqlens.device != first.device:
        raise ValueError(f"{name}: cu_seqlens is on {cu_seqlens.device}, the inputs on {first.device}")
    if cu_seqlens.dim() != 1 or cu_seqlens.shape[0] < 2:
        raise ValueError(f"{name}: cu_seqlens has shape {list(cu_seqlens.shape)}, but [N + 1] is needed")
    if rows != 1:
        raise ValueError(f"{name}: with cu_seqlens the sequences lie in one row: B is 1, not {rows}")
    return cu_seqlens.shape[0] - 1


def _check_state(
    signature: Signature, state: str, tensor: Tensor, sizes: CallSizes, first: Tensor
) -> None:
    (spec,) = (s for s in signature.forms["forward"].inputs if s.name == f"initial_{state}")
    argument = "initial_state" if len(signature.states) == 1 else f'initial_state["{state}"]'
    _check_tensor(signature.name, argument, spec, tensor, first)
    if tensor.shape[0] != sizes.B or tensor.shape[1] != sizes.H:
        raise ValueError(
            f"{signature.name}: {argument} has shape {list(tensor.shape)}, but "
            f"{described(spec)} with N = {sizes.B}, H = {sizes.H} is needed"
        )


def _word(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def check_cuts_if_asked(name: str, cu_seqlens: Optional[Tensor], sizes: CallSizes) -> None:
    """With LASPC_CHECK_CUTS=1 in the environment, `check_cuts` of cuts on a GPU, for which it waits."""
    if cu_seqlens is not None and os.environ.get("LASPC_CHECK_CUTS") == "1":
        check_cuts(name, cu_seqlens.tolist(), sizes.T)


def check_cuts(name: str, cuts: Sequence[int], tokens: int) -> None:
    """Raises ValueError for cuts that do not divide the tokens into sequences."""
    if cuts[0] != 0 or any(after < before for before, after in zip(cuts, cuts[1:])):
        raise ValueError(f"{name}: cu_seqlens begins with 0 and never falls, unlike {list(cuts)}")
    if cuts[-1] != tokens:
        raise ValueError(f"{name}: cu_seqlens ends at {cuts[-1]}, but there are {tokens} tokens (T)")
