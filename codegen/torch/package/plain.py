"""Runs the printed functions of `formula.py` on whole tensors: batches, heads that share, packed sequences."""

from __future__ import annotations

from typing import Callable, Optional, Sequence

import torch
from torch import Tensor

from .checks import check_cuts
from .signature import CallSizes, Form, Spec, share_shape, sum_shares
from .tensor_ops import Sizes

Printed = Callable[..., tuple[Tensor, ...]]


def run_plain(
    name: str,
    form: Form,
    printed: Printed,
    tensors: Sequence[Tensor],
    cu_seqlens: Optional[Tensor],
    sizes: CallSizes,
    arithmetic: torch.dtype = torch.float32,
) -> tuple[Tensor, ...]:
    """The outputs of a form, computed in `arithmetic`; float64 is also what comes out then."""
    if cu_seqlens is None:
        parts = [_run_rows(form, printed, tensors, sizes, arithmetic)]
    else:
        cuts: list[int] = cu_seqlens.tolist()
        check_cuts(name, cuts, sizes.T)
        parts = []
        for index, (start, end) in enumerate(zip(cuts, cuts[1:])):
            own = sizes._replace(B=1, T=end - start, T_total=end - start, token_offset=0, packed=False)
            cut = [_cut(spec, x, index, start, end) for spec, x in zip(form.inputs, tensors)]
            parts.append(_run_rows(form, printed, cut, own, arithmetic))
    outputs = []
    for spec, *shares in zip(form.outputs, *parts):
        whole = torch.cat(shares, dim=1 if spec.per == "token" else 0)
        total = sum_shares(spec, whole, sizes)
        outputs.append(total if arithmetic == torch.float64 else total.to(spec.dtype))
    return tuple(outputs)


def _cut(spec: Spec, x: Tensor, index: int, start: int, end: int) -> Tensor:
    """A packed sequence's own part of a tensor."""
    if spec.per == "token":
        return x[:, start:end]
    return x[index : index + 1] if spec.per == "state" else x


def _run_rows(
    form: Form,
    printed: Printed,
    tensors: Sequence[Tensor],
    sizes: CallSizes,
    arithmetic: torch.dtype,
) -> list[Tensor]:
    """What each sequence and head of a batch gives: [B, T, H, ...] or [B, H, ...]."""
    B, T, H = sizes.B, sizes.T, sizes.H
    device = tensors[0].device
    own = Sizes(B, T, H, sizes.T_total, sizes.token_offset, arithmetic, device)
    heads_first = [_heads_first(spec, x, H).to(arithmetic) for spec, x in zip(form.inputs, tensors)]
    results = printed(own, *heads_first)
    shares = []
    for spec, result in zip(form.outputs, results):
        if spec.per == "token":
            result = result.expand(B, H, T, *spec.dims).transpose(1, 2)
        # A copy: an output is never an input's memory, not even for no tokens.
        result = result.expand(share_shape(spec, sizes))
        shares.append(result.clone(memory_format=torch.contiguous_format))
    return shares


def _heads_first(spec: Spec, x: Tensor, H: int) -> Tensor:
    """[B, H, T, ...] or [B, H, ...], 1 in place of an axis that the tensor does not have."""
    if spec.per == "token":
        return x.transpose(1, 2).repeat_interleave(H // x.shape[2], dim=1)
    if spec.per == "head":
        return x.repeat_interleave(H // x.shape[0], dim=0)[None]
    return x[None, None] if spec.per == "shared" else x
