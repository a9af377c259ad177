"""How states travel between the ranks of a process group: the schedules of `group=`.

    ring        recv from the rank before, fold, send to the rank after: one state each, one rank after another
    allgather   every rank's own part to all, in one message; each folds those before it

A link is one state on its way through the ranks in some order. A rank's own part is there before anything
waits, and is sent before anything else is computed.
"""

from __future__ import annotations

from typing import Callable, NamedTuple, Optional, Sequence

import torch
import torch.distributed as dist
from torch import Tensor

from .stages import Range

SCHEDULES = ("ring", "allgather", "auto")


class Link(NamedTuple):
    """A state, or the cotangent of one, on its way."""

    order: Sequence[int]
    """Ranks of the group in the order in which it passes them."""
    given: Optional[Tensor]
    """What this rank adds to what reaches it: where a sequence begins its first state; or nothing."""
    own: Callable[[], Tensor]
    """What this rank's tokens add to it; computed when it is first needed."""
    factor: Callable[[], Optional[Tensor]]
    """What they multiply it with, likewise."""
    fold: Callable[[Tensor, Range], Tensor]
    like: Tensor
    """A state's shape, dtype and device."""


class Sent(NamedTuple):
    """A message on its way. Until `work.wait()` its tensor must stay as it is."""

    work: dist.Work
    message: Tensor


def exchange(
    links: Sequence[Link], group: dist.ProcessGroup, schedule: str
) -> tuple[list[Optional[Tensor]], list[Sent]]:
    """What reaches this rank by each link, without what is given here; None: nothing comes before it. And what
    this rank sends, which nothing here waits for: that others receive it must not hold up this rank's outputs.
    """
    return (_allgather(links, group), []) if schedule == "allgather" else _ring(links, group)


def _ring(
    links: Sequence[Link], group: dist.ProcessGroup
) -> tuple[list[Optional[Tensor]], list[Sent]]:
    rank = dist.get_rank(group)
    sent: list[Sent] = []
    arrived: list[Optional[Tensor]] = []
    for link in links:
        if rank != link.order[-1]:
            link.own()
    for link in links:
        place = link.order.index(rank)
        incoming = None
        if place > 0:
            incoming = torch.empty_like(link.like)
            dist.recv(incoming, dist.get_global_rank(group, link.order[place - 1]), group)
        if place + 1 < len(link.order):
            leaving = _leaving(link, added(incoming, link.given)).contiguous()
            after = dist.get_global_rank(group, link.order[place + 1])
            sent.append(Sent(dist.isend(leaving, after, group), leaving))
        arrived.append(incoming)
    return arrived, sent


def _allgather(links: Sequence[Link], group: dist.ProcessGroup) -> list[Optional[Tensor]]:
    rank, count = dist.get_rank(group), dist.get_world_size(group)
    own = [Range(_leaving(link, link.given), link.factor()) for link in links]
    parts = [x for one in own for x in (one.own, one.factor) if x is not None]
    message = torch.cat([x.flatten() for x in parts])
    gathered = torch.empty(count * message.numel(), dtype=message.dtype, device=message.device)
    dist.all_gather_into_tensor(gathered, message, group)
    sizes = [x.numel() for x in parts]
    rows = [list(row.split(sizes)) for row in gathered.view(count, -1).unbind()]
    arrived: list[Optional[Tensor]] = []
    for link, mine in zip(links, own):
        ranges = []
        for row in rows:
            state = row.pop(0).view(mine.own.shape)
            factor = None if mine.factor is None else row.pop(0).view(mine.factor.shape)
            ranges.append(Range(state, factor))
        state = None
        for before in link.order[: link.order.index(rank)]:
            one = ranges[before]
            state = one.own if state is None else link.fold(state, one)
        arrived.append(state)
    return arrived


def _leaving(link: Link, state: Optional[Tensor]) -> Tensor:
    own = link.own()
    return own if state is None else link.fold(state, Range(own, link.factor()))


def added(*states: Optional[Tensor]) -> Optional[Tensor]:
    """The sum of those that are there; None: of none."""
    present = [x for x in states if x is not None]
    return sum(present[1:], present[0]) if present else None
