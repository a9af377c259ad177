"""Cuts sequences into segments that a GPU computes side by side, where batch x heads leave it idle.

A segment is a sequence of its own that begins with what its predecessors hand on: `manifest.json` lists the
launches that then stand for a form. Which length is faster follows from the shape alone, so that it is known
without waiting for the GPU; for the same length the bits are the same whatever the batch.
"""

from __future__ import annotations

from typing import Any, Iterable, NamedTuple, Optional, Union

import torch
from torch import Tensor

from .signature import CallSizes, Spec, is_step, shape_of

# Costs in the time that a kernel takes for one token: what each of the summaries adds to a segment's own
# work, the first chunk of a kernel, two more launches, one more step of the exchange. Segments end on whole
# chunks.
_SUMMARY, _FILL, _LAUNCHES, _STEP, _ALIGNMENT, _SHORTEST = 0.5, 64, 100, 16, 128, 256
# Segments that are tried: as many as keep the processors busy so many times.
_ROUNDS = (0.5, 1, 2, 3, 5, 8)

_chosen: Union[int, str] = "auto"


def set_segment_length(length: Union[int, str]) -> None:
    """How many tokens the segments of a sequence have, from the next call on, in this process.

    "auto": as is fastest for the shape on this GPU, or, while `torch.use_deterministic_algorithms` is on,
    "never". Results differ between lengths as sums in another order do.

    Raises ValueError for what is neither "auto", "never" nor a positive number.
    """
    global _chosen
    if length not in ("auto", "never") and not (isinstance(length, int) and length > 0):
        raise ValueError(f'the length is "auto", "never" or a number of tokens, not {length!r}')
    _chosen = length


class Work(NamedTuple):
    """What a form is on a GPU."""

    processors: int
    columns: int
    """Blocks that one head of one sequence is computed in anyway."""
    summaries: int
    """Summaries that a segment needs before its own work."""


def segment_length(sizes: CallSizes, work: Work) -> int:
    """Tokens of a segment, or 0: whole sequences."""
    if isinstance(_chosen, int):
        return _chosen if sizes.T > _chosen else 0
    if _chosen == "never" or torch.are_deterministic_algorithms_enabled():
        return 0
    return fastest_length(sizes, work)


def fastest_length(sizes: CallSizes, work: Work) -> int:
    """What "auto" stands for. Sizes may be symbols of torch.compile, for which few comparisons are made."""
    tokens = -(-sizes.T // max(1, sizes.B)) if sizes.packed else sizes.T
    blocks = max(1, sizes.B * sizes.H * work.columns)

    def rounds(segments: int) -> int:
        return -(-segments * blocks // work.processors)

    best: tuple[float, int] = (rounds(1) * tokens, 0)
    for busy in _ROUNDS:
        n = min(int(busy * work.processors) // blocks, tokens // _SHORTEST)
        if n < 2:
            continue
        length = -(-tokens // (n * _ALIGNMENT)) * _ALIGNMENT
        own = (1 + _SUMMARY * work.summaries) * rounds(n) * (length + _FILL)
        cost = own + _LAUNCHES + _STEP * n
        if cost < best[0]:
            best = (cost, length)
    return best[1]


def columns_of(kernels: Iterable[Any]) -> int:
    """Blocks that a form's kernels cut one head of one sequence into; those that cut tokens do not count."""
    most = 1
    for kernel in kernels:
        columns = 1
        for axis in kernel["grid"][1:]:
            for factor in axis["of"]:
                columns = columns * factor if isinstance(factor, int) else 0
            columns = -(-columns // axis["by"])
        most = max(most, columns)
    return most


def summaries_of(launches: Iterable[Any]) -> int:
    """Summaries among the launches that stand for a form."""
    own = [launch for launch in launches if launch["over"] == "segments" and "part" not in launch]
    return len(own) - 1


def kept_shape(spec: Spec, sizes: CallSizes) -> tuple[int, ...]:
    """The shape of what the kernels of a forward keep for the gradients: of each segment a state."""
    if is_step(sizes) or (sizes.segment == 0 and not spec.intra):
        return (0,)
    if spec.intra:
        return shape_of(spec, sizes)
    return shape_of(spec, sizes._replace(B=segments_of(sizes, sizes.segment)))


def segments_of(sizes: CallSizes, length: int) -> int:
    """How many segments sequences are cut into; of packed ones at most, with an empty one behind each."""
    if sizes.packed:
        return sizes.T // length + 2 * sizes.B
    return sizes.B * -(-sizes.T // length)


def end_on_chunks(length: int) -> bool:
    """Do segments of so many tokens have the chunks of the whole sequence?"""
    return length % _ALIGNMENT == 0


class Cut(NamedTuple):
    """Sizes of a launch and the cuts of its packed sequences."""

    sizes: CallSizes
    cu_seqlens: Optional[Tensor]


def cut_segments(
    sizes: CallSizes, cu_seqlens: Optional[Tensor], length: int, device: torch.device
) -> dict[str, Cut]:
    """Launches over `segments`, each a sequence, and over `sequences`, in which a segment is a token.

    Of packed sequences each is followed by an empty segment, since what is stored per token there has one
    place more for each sequence; how many segments there are is not known here, only how many at most.
    """
    B, T = sizes.B, sizes.T
    segments = segments_of(sizes, length)
    if cu_seqlens is not None:
        cuts = cu_seqlens.to(torch.int32)
        most = T // length + B
        steps = torch.arange(B + 1, device=device, dtype=torch.int32)
        counts = torch.zeros_like(steps)
        counts[1:] = ((cuts.diff() + (length - 1)) // length).cumsum(0, dtype=torch.int32)
        slots = torch.arange(most + B + 1, device=device, dtype=torch.int32)
        first = counts + steps
        of = torch.searchsorted(first[1:], slots, right=True).clamp(max=B - 1)
        refined = torch.minimum(cuts[of] + (slots - first[of]) * length, cuts[of + 1])
        over = sizes._replace(T=most, T_total=most)
        return {
            "segments": Cut(sizes._replace(B=segments), refined),
            "sequences": Cut(over, counts),
        }
    count = -(-T // length)
    over = Cut(sizes._replace(T=count, T_total=count), None)
    if T % length == 0:
        return {
            "segments": Cut(sizes._replace(B=segments, T=length, T_total=length), None),
            "sequences": over,
        }
    slots = torch.arange(segments + 1, device=device, dtype=torch.int32)
    refined = slots // count * T + (slots % count * length).clamp(max=T)
    packed = sizes._replace(B=segments, T=B * T, T_total=B * T, packed=True)
    return {"segments": Cut(packed, refined), "sequences": over}
