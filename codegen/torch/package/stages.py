"""The stages that a sequence in parts is computed by: summarise, fold, apply; likewise for the gradients.

A range of tokens acts on a state as `state -> factor * state + own`. `summary` gives both, from keys, values
and gates alone; `fold` applies them to the state that reaches the range; `apply` is the attention from that state
on. Any schedule of messages can be made of these; `group.py` has two.

Where what a state writes comes from a read of another, they go by levels: `summary(level=0)`, then, from the
states of level 0 that reached this range, `summary(level=1, initial_state=...)`; going back, `summary_bwd` from the
last level to the first. `levels` has the states of each; most attentions have one.
"""

from __future__ import annotations

from typing import Mapping, NamedTuple, Optional, Sequence

import torch
from torch import Tensor

from .checks import checked_sizes
from .operators import Operators
from .signature import CallSizes, form_giving

States = Mapping[str, Tensor]


class Range(NamedTuple):
    """What a range of tokens does to a state: `factor * state + own`."""

    own: Tensor
    """[N, H, K, V], float32: the state that the range leaves when it begins with zero."""
    factor: Optional[Tensor]
    """float32: a log decay for each head, [N, H], or channel, [N, H, K] or [N, H, V]; of a delta rule a matrix,
    [N, H, K, K]; None: the range adds to the state only."""


class Stages:
    """The stages of an attention, each on one device, without a gradient of their own.

    `inputs` are the attention's own, in its function's order, of this range's tokens; states are dicts by
    name. All raise what the attention's function does for wrong arguments.
    """

    def __init__(self, operators: Operators) -> None:
        self._operators = operators
        self._signature = operators.signature
        self.levels = operators.signature.levels

    def summary(
        self,
        *inputs: Tensor,
        level: int = 0,
        initial_state: Optional[States] = None,
        cu_seqlens: Optional[Tensor] = None,
    ) -> dict[str, Range]:
        """What this range does to each state of a level. Needs no queries, and of other ranges only the states
        of lower levels that reach this one, `initial_state` (None: zero).

        With `cu_seqlens`, [N + 1], of each of N sequences; else N is B.
        """
        states = dict(initial_state or {})
        sizes = self._sizes(inputs, states, cu_seqlens)
        known = self._with_states(inputs, states, sizes)
        return self.summary_of(known, cu_seqlens, sizes, self._level(level))

    def fold(self, states: States, ranges: Mapping[str, Range]) -> dict[str, Tensor]:
        """The states behind a range, from those before it: factor * state + own, [N, H, K, V], float32."""
        return {name: self.fold_one(name, states[name], one) for name, one in ranges.items()}

    def apply(
        self,
        *inputs: Tensor,
        initial_state: Optional[States] = None,
        cu_seqlens: Optional[Tensor] = None,
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Outputs and final states by name, from the states that reach this range (None: zero)."""
        states = dict(initial_state or {})
        sizes = self._sizes(inputs, states, cu_seqlens)
        found = self.apply_to(self._with_states(inputs, states, sizes), cu_seqlens, sizes)
        finals = {name: found[f"final_{name}"] for name in self._signature.states}
        return {spec.name: found[spec.name] for spec in self._signature.outputs}, finals

    def summary_bwd(
        self,
        *inputs: Tensor,
        d_outputs: Sequence[Tensor],
        level: int = 0,
        initial_state: Optional[States] = None,
        d_final_state: Optional[States] = None,
        cu_seqlens: Optional[Tensor] = None,
    ) -> dict[str, Range]:
        """What this range does to the cotangent of each state of a level on its way back: as `summary`, for
        `fold_bwd`.

        `d_outputs`: cotangents of the outputs, in their order. `initial_state`: the states that reached this
        range; `d_final_state`: the cotangents of higher levels that reached its end (None: zero). `own` is
        [N, H, K, V], float32.
        """
        states, finals = dict(initial_state or {}), dict(d_final_state or {})
        sizes = self._sizes(inputs, states, cu_seqlens)
        known = self._with_cotangents(inputs, states, finals, sizes, d_outputs)
        names = self._level(level)
        factors = self.summary_of(known, cu_seqlens, sizes, names)
        own = self.summary_bwd_of(known, cu_seqlens, sizes, names)
        return {name: Range(own[name], factors[name].factor) for name in names}

    def fold_bwd(self, states: States, ranges: Mapping[str, Range]) -> dict[str, Tensor]:
        """Cotangents of the states before a range, from those of the states behind it."""
        return {name: self.fold_bwd_one(name, states[name], one) for name, one in ranges.items()}

    def apply_bwd(
        self,
        *inputs: Tensor,
        d_outputs: Sequence[Tensor],
        initial_state: Optional[States] = None,
        d_final_state: Optional[States] = None,
        cu_seqlens: Optional[Tensor] = None,
    ) -> dict[str, Tensor]:
        """Gradients by name, `d_<input>` and `d_initial_<state>`, in their inputs' shapes and dtypes.

        `initial_state`: the states that reached this range, as `apply` took them; `d_final_state`: the
        cotangents that reached its end (None: zero).
        """
        states, finals = dict(initial_state or {}), dict(d_final_state or {})
        sizes = self._sizes(inputs, states, cu_seqlens)
        known = self._with_cotangents(inputs, states, finals, sizes, d_outputs)
        return self.apply_bwd_of(known, cu_seqlens, sizes)

    # --- by the names of the manifest, sizes known ---------------------------------------------------

    def summary_of(
        self,
        known: Mapping[str, Tensor],
        cu_seqlens: Optional[Tensor],
        sizes: CallSizes,
        names: Sequence[str],
    ) -> dict[str, Range]:
        """Ranges of the states of one level, whose `names` these are; so everywhere here."""
        own = self.own_of(known, cu_seqlens, sizes, names)
        if not self.has_transitions(names):
            return own
        factors = self.transitions_of(known, cu_seqlens, sizes, names)
        return {name: Range(one.own, factors.get(name)) for name, one in own.items()}

    def own_of(
        self,
        known: Mapping[str, Tensor],
        cu_seqlens: Optional[Tensor],
        sizes: CallSizes,
        names: Sequence[str],
    ) -> dict[str, Range]:
        """Ranges without matrices, which take a launch of their own."""
        found = self._run(f"summary_{names[0]}", known, cu_seqlens, sizes)
        return {
            name: Range(found[f"summary_{name}"], found.get(self.factor_name(name)))
            for name in names
        }

    def has_transitions(self, names: Sequence[str]) -> bool:
        """Are there states among these that ranges multiply with matrices?"""
        return any(self._form_of(f"transition_{name}") for name in names)

    def transitions_of(
        self,
        known: Mapping[str, Tensor],
        cu_seqlens: Optional[Tensor],
        sizes: CallSizes,
        names: Sequence[str],
    ) -> dict[str, Tensor]:
        """The factors of all these states that have one, where some are matrices."""
        factors = {name: self.factor_name(name) for name in names}
        found: dict[str, Tensor] = {}
        for own in factors.values():
            if own and own not in found:
                found |= self._run(own, known, cu_seqlens, sizes)
        return {name: found[own] for name, own in factors.items() if own}

    def apply_to(
        self, known: Mapping[str, Tensor], cu_seqlens: Optional[Tensor], sizes: CallSizes
    ) -> dict[str, Tensor]:
        return self._operators.run("forward", known, cu_seqlens, sizes)

    def summary_bwd_of(
        self,
        known: Mapping[str, Tensor],
        cu_seqlens: Optional[Tensor],
        sizes: CallSizes,
        names: Sequence[str],
    ) -> dict[str, Tensor]:
        found = self._run(f"d_summary_{names[0]}", known, cu_seqlens, sizes)
        return {name: found[f"d_summary_{name}"] for name in names}

    def apply_bwd_of(
        self,
        known: Mapping[str, Tensor],
        cu_seqlens: Optional[Tensor],
        sizes: CallSizes,
        form: str = "backward",
    ) -> dict[str, Tensor]:
        return self._operators.run(form, known, cu_seqlens, sizes)

    def fold_one(self, name: str, state: Tensor, one: Range) -> Tensor:
        """`fold` of one state."""
        known = {f"initial_{name}": state, f"summary_{name}": one.own}
        return self._fold(f"fold_{name}", known, name, one.factor)

    def fold_bwd_one(self, name: str, state: Tensor, one: Range) -> Tensor:
        """`fold_bwd` of one state: a matrix is transposed; a decay or nothing is the same both ways."""
        if f"fold_bwd_{name}" not in self._signature.forms:
            return self.fold_one(name, state, one)
        known = {f"d_final_{name}": state, f"d_summary_{name}": one.own}
        return self._fold(f"fold_bwd_{name}", known, name, one.factor)

    def factor_name(self, name: str) -> str:
        """What the factor of a state is called in the manifest; empty: it has none."""
        own = (f"initial_{name}", f"summary_{name}")
        names = [x.name for x in self._signature.forms[f"fold_{name}"].inputs if x.name not in own]
        return names[0] if names else ""

    def _form_of(self, output: str) -> Optional[str]:
        return form_giving(self._signature, output)

    def _run(
        self,
        output: str,
        known: Mapping[str, Tensor],
        cu_seqlens: Optional[Tensor],
        sizes: CallSizes,
    ) -> dict[str, Tensor]:
        """All that the form gives that gives this."""
        form = self._form_of(output)
        assert form is not None
        return self._operators.run(form, known, cu_seqlens, sizes)

    def _fold(
        self, form: str, known: dict[str, Tensor], name: str, factor: Optional[Tensor]
    ) -> Tensor:
        if factor is not None:
            known[self.factor_name(name)] = factor
        B, H = next(iter(known.values())).shape[:2]
        sizes = CallSizes(B=B, T=0, H=H, T_total=0, token_offset=0, packed=False, heads={})
        (state,) = self._operators.run(form, known, None, sizes).values()
        return state

    # --- arguments -----------------------------------------------------------------------------------

    def _sizes(
        self, inputs: Sequence[Tensor], states: States, cu_seqlens: Optional[Tensor]
    ) -> CallSizes:
        name, wanted = self._signature.name, [spec.name for spec in self._signature.inputs]
        if len(inputs) != len(wanted):
            raise TypeError(f"{name}: {', '.join(wanted)} are needed, not {len(inputs)} inputs")
        given = [states.get(state) for state in self._signature.states]
        return checked_sizes(self._signature, inputs, given, cu_seqlens)

    def _level(self, level: int) -> Sequence[str]:
        if not 0 <= level < len(self.levels):
            name, count = self._signature.name, len(self.levels)
            raise ValueError(f"{name}: states have {count} levels, counted from 0; there is no {level}")
        return self.levels[level]

    def _with_cotangents(
        self,
        inputs: Sequence[Tensor],
        states: States,
        finals: States,
        sizes: CallSizes,
        d_outputs: Sequence[Tensor],
    ) -> dict[str, Tensor]:
        known = self._with_states(inputs, states, sizes, d_outputs)
        for name in self._signature.states:
            first = known[f"initial_{name}"]
            known[f"d_final_{name}"] = finals.get(name, torch.zeros_like(first))
        return known

    def _with_states(
        self,
        inputs: Sequence[Tensor],
        states: States,
        sizes: CallSizes,
        d_outputs: Sequence[Tensor] = (),
    ) -> dict[str, Tensor]:
        known = {spec.name: x for spec, x in zip(self._signature.inputs, inputs)}
        for name in self._signature.states:
            zeros = self._operators.zero_state(name, sizes, inputs[0].device)
            known[f"initial_{name}"] = states.get(name, zeros)
        for spec, x in zip(self._signature.outputs, d_outputs):
            known[f"d_{spec.name}"] = x
        return known
