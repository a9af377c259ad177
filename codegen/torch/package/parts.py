"""A rank's part of a sequence in one direction, in two halves: what needs no other rank, and the rest.

Where kernels compute a range by segments anyway, the segments' summaries serve both: what the range adds as a whole
is one small launch behind them, so that over a group hardly more is computed than on one device.
"""

from __future__ import annotations

from typing import Any, Mapping, Optional, Union

import torch
from torch import Tensor

from .kernels import Kernels
from .operators import Operators
from .segments import cut_segments, end_on_chunks
from .signature import CallSizes, key_of, shape_of
from .stages import Range, Stages

Known = Mapping[str, Tensor]


class Parts:
    """Makes halves: by segments where kernels compute a range so, else whole."""

    def __init__(self, operators: Operators, stages: Stages, kernels: Kernels) -> None:
        self.operators = operators
        self.stages = stages
        self.kernels = kernels

    def half(
        self, form: str, known: Known, cu_seqlens: Optional[Tensor], sizes: CallSizes
    ) -> Half:
        """`form` is "forward" or one of gradients; `known` are its inputs but for what other ranks send, and for the
        backward what the forward's half kept.
        """
        device = next(iter(known.values())).device
        # Gradients go by the segments of their forward.
        length = self.operators.segment_length("forward", sizes, device)
        # Packed sequences have segments of their own numbers, which are not summed up in one launch.
        # Levels of states are exchanged one after another, segments hand all on in one launch.
        one_level = len(self.operators.signature.levels) == 1
        if cu_seqlens is None and length > 0 and one_level:
            return Segmented(self, form, known, sizes, length)
        return Whole(self.operators, self.stages, form, known, cu_seqlens, sizes)


class Whole:
    """In one piece."""

    def __init__(
        self,
        operators: Operators,
        stages: Stages,
        form: str,
        known: Known,
        cu_seqlens: Optional[Tensor],
        sizes: CallSizes,
    ) -> None:
        self._operators = operators
        self._stages = stages
        self._form = form
        self._is_gradient = form != "forward"
        self._known = dict(known)
        self._rest = (cu_seqlens, sizes)
        self._level = {name: own for own in stages.levels for name in own}
        self._begin = "d_final" if self._is_gradient else "initial"
        self._intra: dict[str, Tensor] = {}
        self._summary: dict[str, Range] = {}
        self._d_summary: dict[str, Tensor] = {}
        self._transitions: dict[str, Tensor] = {}

    def prepare(self) -> None:
        """Queues what needs no other rank and is needed in any case."""
        if not self._is_gradient:
            self._intra = self._operators.intra(self._known, *self._rest)
            self._known |= self._intra

    def receive(self, arrived: Known) -> None:
        """Takes what reached this rank of some states, which others' writes may come from."""
        self._known |= {f"{self._begin}_{name}": x for name, x in arrived.items()}

    def own(self, name: str) -> Tensor:
        """What the tokens add to a state, or to its cotangent, from what was received of other levels."""
        if not self._is_gradient:
            return self._summarised(name).own
        if name not in self._d_summary:
            own = self._stages.summary_bwd_of(self._known, *self._rest, self._level[name])
            self._d_summary |= own
        return self._d_summary[name]

    def factor(self, name: str) -> Optional[Tensor]:
        """What they multiply it with: see `Range`."""
        if not self._stages.factor_name(name):
            return None
        kept = self._known.get(f"factor_{name}")
        if kept is not None:
            return kept
        names = self._level[name]
        if not self._stages.has_transitions(names):
            return self._summarised(name).factor
        if name not in self._transitions:
            self._transitions |= self._stages.transitions_of(self._known, *self._rest, names)
        return self._transitions[name]

    def _summarised(self, name: str) -> Range:
        if name not in self._summary:
            self._summary |= self._stages.own_of(self._known, *self._rest, self._level[name])
        return self._summary[name]

    def finish(self) -> dict[str, Tensor]:
        """The results by name, when all states have been received."""
        if self._is_gradient:
            return self._stages.apply_bwd_of(self._known, *self._rest, self._form)
        return self._stages.apply_to(self._known, *self._rest)

    def kept(self) -> dict[str, Tensor]:
        """What the way back can use, as far as it is there."""
        known = {name: one.factor for name, one in self._summary.items()}
        found = {**known, **self._transitions}
        factors = {f"factor_{name}": x for name, x in found.items() if x is not None}
        return {**self._intra, **factors}


class Segmented:
    """By segments: the launches before and after the one that hands states on from segment to segment."""

    def __init__(
        self, parts: Parts, form: str, known: Known, sizes: CallSizes, length: int
    ) -> None:
        device = next(iter(known.values())).device
        self._parts = parts
        self._form = parts.operators.signature.forms[form]
        self._given = known
        self._known = dict(known)
        self._sizes = sizes
        self._length = length
        self._cuts = cut_segments(sizes, None, length, device)
        is_gradient = form != "forward"
        self._begin, self._end = ("d_final", "d_initial") if is_gradient else ("initial", "final")
        launches = list(parts.operators.signature.segments[form])
        names = [launch["form"] for launch in launches]
        at = names.index("exchange_bwd" if is_gradient else "exchange")
        self._before, self._exchange, self._after = launches[:at], launches[at], launches[at + 1 :]
        if all(key_of(spec) in known for spec in parts.operators.signature.kept):
            self._before = [launch for launch in self._before if "again" not in launch]
        self._is_prepared = False
        self._own: Optional[dict[str, Tensor]] = None
        self._arrived: Known = {}
        self._factors: dict[str, Tensor] = {}

    @property
    def _states(self) -> tuple[str, ...]:
        return self._parts.operators.signature.states

    def prepare(self) -> None:
        if not self._is_prepared:
            for launch in self._before:
                self._launch(launch)
        self._is_prepared = True

    def own(self, name: str) -> Tensor:
        if self._own is None:
            self.prepare()
            self._carry({})
            self._own = {x: self._known[f"{self._end}_{x}"] for x in self._states}
        return self._own[name]

    def factor(self, name: str) -> Optional[Tensor]:
        own = self._parts.stages.factor_name(name)
        if not own:
            return None
        kept = self._known.get(f"factor_{name}")
        if kept is not None:
            return kept
        if name not in self._factors:
            self.prepare()
            if self._parts.stages.has_transitions(self._states):
                known = self._known if end_on_chunks(self._length) else self._given
                found = self._parts.stages.transitions_of(known, None, self._sizes, self._states)
                self._factors |= found
            else:
                # Logarithms of decays: one for each segment, of which the range's is the sum.
                decays = self._known[own]
                rows = self._sizes.B, self._cuts["sequences"].sizes.T
                self._factors[name] = decays.reshape(*rows, self._sizes.H, *decays.shape[2:]).sum(1)
        return self._factors[name]

    def _carry(self, arrived: Known) -> None:
        """Hands on from segment to segment what reached the range; zero where nothing did."""
        for name in self._states:
            state = arrived.get(name)
            if state is None:
                device = next(iter(self._known.values())).device
                state = self._parts.operators.zero_state(name, self._sizes, device)
            self._known[f"{self._begin}_{name}"] = state
        self._launch(self._exchange)

    def receive(self, arrived: Known) -> None:
        self._arrived = arrived

    def finish(self) -> dict[str, Tensor]:
        self.prepare()
        self._carry(self._arrived)
        for launch in self._after:
            self._launch(launch)
        return {
            spec.name: self._known[spec.name].reshape(shape_of(spec, self._sizes))
            for spec in self._form.outputs
        }

    def kept(self) -> dict[str, Tensor]:
        if self._form.name != "forward":
            return {}
        names = [key_of(spec) for spec in self._parts.operators.signature.kept]
        kept = {name: self._known[name] for name in names if name in self._known}
        return kept | {f"factor_{name}": x for name, x in self._factors.items()}

    def _launch(self, launch: Any) -> None:
        device = next(iter(self._known.values())).device.type
        with torch.no_grad(), torch.autocast(device, enabled=False):
            self._parts.kernels.launch_segments(launch, self._known, self._cuts)


Half = Union[Whole, Segmented]
