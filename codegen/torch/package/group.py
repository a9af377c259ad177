"""The attention over a process group: each rank has its own tokens of a sequence, and states travel between.

A rank sums up its tokens, exchanges states as `exchange.py` says, and computes its outputs from the state that
reached it, which is kept for the gradients. Going back, cotangents of states travel the other way. Every rank
takes part in both, tokens or none.
"""

from __future__ import annotations

from functools import partial
from typing import Any, Mapping, NamedTuple, Optional, Sequence

import torch
import torch.distributed as dist
from torch import Tensor
from torch.autograd.function import once_differentiable

from .checks import checked_sizes
from .exchange import SCHEDULES, Link, Sent, added, exchange
from .operators import Operators, State
from .parts import Half, Parts
from .signature import CallSizes, Spec, shape_of
from .stages import Stages


class Call(NamedTuple):
    """What a call is besides tensors that have gradients."""

    sizes: CallSizes
    group: dist.ProcessGroup
    schedule: str
    cu_seqlens: Optional[Tensor]
    device: torch.device


class Grouped:
    """The attention's operators over a process group."""

    def __init__(self, operators: Operators, stages: Stages, parts: Parts) -> None:
        self._operators = operators
        self._stages = stages
        self._parts = parts
        self.signature = operators.signature

    @torch.compiler.disable
    def __call__(
        self,
        inputs: Sequence[Tensor],
        initial_state: State,
        cu_seqlens: Optional[Tensor],
        group: dist.ProcessGroup,
        schedule: str,
        token_offset: int = 0,
    ) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
        """Outputs and final states of this rank's tokens.

        Raises as `checks.checked_sizes` says; TypeError for what is no process group that this process
        belongs to; ValueError for an unknown schedule, or a first state where the sequence does not begin.
        """
        name = self.signature.name
        if not isinstance(group, dist.ProcessGroup):
            kind = type(group).__name__
            raise TypeError(f"{name}: group must be a ProcessGroup of this process, not {kind}")
        if schedule not in SCHEDULES:
            raise ValueError(f"{name}: schedule is one of {', '.join(SCHEDULES)}, not {schedule!r}")
        inputs, states = self._operators.given(inputs, initial_state)
        sizes = checked_sizes(self.signature, inputs, states, cu_seqlens, token_offset)
        rank = dist.get_rank(group)
        for state, given in zip(self.signature.states, states):
            first = self._orders(state, group)[0][0]
            if given is not None and rank != first:
                raise ValueError(
                    f"{name}: initial_state of {state} is given on rank {first} of the group, where the "
                    f"sequence begins, not on rank {rank}"
                )
        if self.signature.positional:
            sizes = self._placed(sizes, group, inputs[0].device)
        call = Call(sizes, group, schedule, cu_seqlens, inputs[0].device)
        results = _Attention.apply(self, call, *inputs, *states)
        count = len(self.signature.outputs)
        return results[:count], results[count:]

    def _placed(self, sizes: CallSizes, group: dist.ProcessGroup, device: torch.device) -> CallSizes:
        """The sizes with where this rank's tokens lie in the whole sequence; waits for all ranks."""
        if sizes.packed:
            raise ValueError(
                f"{self.signature.name} reads the places of tokens, which packed sequences over a group "
                "do not have yet"
            )
        own = torch.tensor([sizes.T], device=device)
        lengths = own.new_empty(dist.get_world_size(group))
        dist.all_gather_into_tensor(lengths, own, group)
        known: list[int] = lengths.tolist()
        return sizes._replace(
            T_total=sizes.token_offset + sum(known),
            token_offset=sizes.token_offset + sum(known[: dist.get_rank(group)]),
        )

    def _orders(self, state: str, group: dist.ProcessGroup) -> list[list[int]]:
        """The ways of a state through the ranks: one; without a mask both, that of its first state first."""
        up = list(range(dist.get_world_size(group)))
        down = up[::-1]
        return {"up": [up], "down": [down], "both": [up, down]}[self.signature.ways[state]]

    def _schedule(self, call: Call) -> str:
        if call.schedule != "auto":
            return call.schedule
        # On a ring the last of two ranks waits for the first; what it spares is to compute and send matrices.
        is_pair = dist.get_world_size(call.group) <= 2
        has_matrices = self._stages.has_transitions(self.signature.states)
        return "ring" if is_pair and has_matrices else "allgather"

    # --- forward and backward ------------------------------------------------------------------------

    def forward(
        self, call: Call, inputs: Sequence[Tensor], given: Sequence[Optional[Tensor]]
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Results; and what the gradients need: inputs, the states that arrived, what the half kept."""
        known = {spec.name: x for spec, x in zip(self.signature.inputs, inputs)}
        half = self._parts.half("forward", known, call.cu_seqlens, call.sizes)
        first = dict(zip(self.signature.states, given))
        arrived, found = self._through(half, call, first, is_gradient=False)
        known |= {f"initial_{name}": x for name, x in arrived.items()}
        return found, {**known, **half.kept()}

    def backward(
        self,
        call: Call,
        kept: Mapping[str, Tensor],
        cotangents: Sequence[Optional[Tensor]],
        wanted: set[str],
    ) -> dict[str, Tensor]:
        """Gradients by name: those `wanted` and maybe more."""
        known = dict(kept)
        outputs = self.signature.outputs
        for spec, x in zip(outputs, cotangents):
            known[f"d_{spec.name}"] = self._zeros(spec, call, kept) if x is None else x
        form = self._operators.gradient_form(wanted).name
        half = self._parts.half(form, known, call.cu_seqlens, call.sizes)
        last = dict(zip(self.signature.states, cotangents[len(outputs) :]))
        return self._through(half, call, last, is_gradient=True)[1]

    def _through(
        self, half: Half, call: Call, given: Mapping[str, Optional[Tensor]], is_gradient: bool
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """What arrives of each state, and the results."""
        half.prepare()
        levels = self.signature.levels
        arrived: dict[str, Tensor] = {}
        sent: list[Sent] = []
        # A level writes what is read of those below it; cotangents go from the last to the first.
        for names in reversed(levels) if is_gradient else levels:
            reached, leaving = self._exchange(call, names, given, half, is_gradient)
            half.receive(reached)
            arrived |= reached
            sent += leaving
        found = half.finish()
        for work, _ in sent:
            work.wait()
        return arrived, found

    def _zeros(self, spec: Spec, call: Call, kept: Mapping[str, Tensor]) -> Tensor:
        device = next(iter(kept.values())).device
        return torch.zeros(shape_of(spec, call.sizes), dtype=spec.dtype, device=device)

    def _exchange(
        self,
        call: Call,
        names: Sequence[str],
        given: Mapping[str, Optional[Tensor]],
        half: Half,
        is_gradient: bool,
    ) -> tuple[dict[str, Tensor], list[Sent]]:
        """What reaches this rank's tokens of each of these states, or from behind of each cotangent; zero for
        none. And what this rank sends.
        """
        device = call.device
        fold = self._stages.fold_bwd_one if is_gradient else self._stages.fold_one
        links: dict[str, list[Link]] = {}
        zeros: dict[str, Tensor] = {}
        for name in names:
            zeros[name] = self._operators.zero_state(name, call.sizes, device)
            links[name] = [
                Link(
                    order[::-1] if is_gradient else order,
                    given[name],
                    partial(half.own, name),
                    partial(half.factor, name),
                    partial(fold, name),
                    zeros[name],
                )
                for order in self._orders(name, call.group)
            ]
        every = [link for own_links in links.values() for link in own_links]
        reached, sent = exchange(every, call.group, self._schedule(call))
        found = iter(reached)
        arrived = {}
        for name, own_links in links.items():
            total = added(*(next(found) for _ in own_links), given[name])
            arrived[name] = zeros[name] if total is None else total
        return arrived, sent


class _Attention(torch.autograd.Function):
    """One node of autograd, whose two halves talk to the group."""

    @staticmethod
    def forward(ctx: Any, grouped: Grouped, call: Call, *tensors: Optional[Tensor]) -> Any:
        signature = grouped.signature
        count = len(signature.inputs)
        found, kept = grouped.forward(call, tensors[:count], tensors[count:])
        ctx.grouped, ctx.call, ctx.names = grouped, call, tuple(kept)
        ctx.save_for_backward(*kept.values())
        ctx.set_materialize_grads(False)
        return tuple(found[spec.name] for spec in signature.forms["forward"].outputs)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *cotangents: Optional[Tensor]) -> Any:
        grouped: Grouped = ctx.grouped
        kept = dict(zip(ctx.names, ctx.saved_tensors))
        names = [f"d_{spec.name}" for spec in grouped.signature.forms["forward"].inputs]
        needed = ctx.needs_input_grad[2:]
        wanted = {name for name, is_needed in zip(names, needed) if is_needed}
        found = grouped.backward(ctx.call, kept, cotangents, wanted)
        return (None, None, *(found[name] if name in wanted else None for name in names))
