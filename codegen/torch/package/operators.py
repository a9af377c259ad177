"""The attention as operators of `torch.library`: `laspc_<name>::forward` and `::backward`.

The operators change none of their arguments and know their outputs' shapes without running (for
`torch.compile`); the gradient of the one is the other. What computes them is `plain.py` for tensors on
the CPU and `kernels.py` for tensors on a GPU.
"""

from __future__ import annotations

import keyword
from typing import Any, Callable, Mapping, NamedTuple, Optional, Sequence, Union

import torch
from torch import Tensor

from .checks import check_cuts_if_asked, checked_sizes, under_autocast
from .segments import kept_shape
from .signature import CallSizes, Form, Signature, Spec, is_step, key_of, may_be_absent, shape_of

State = Union[None, Tensor, Mapping[str, Tensor]]


class Implementation(NamedTuple):
    """What computes forms of tensors somewhere, by their names."""

    run: Callable[
        [Form, Mapping[str, Tensor], Optional[Tensor], CallSizes], Mapping[str, Tensor]
    ]
    """The outputs of a form from its inputs, where states and their cotangents may be missing: zero; and of a forward
    what it keeps for the gradients, which may be among their inputs: `signature.key_of`."""
    length: Optional[Callable[[str, CallSizes, torch.device], int]] = None
    """Tokens of the segments that it computes a form by, 0 for none; without it nothing is kept."""
    intra: Optional[
        Callable[[Mapping[str, Tensor], Optional[Tensor], CallSizes], Mapping[str, Tensor]]
    ] = None
    """What chunks give of inputs alone, by `signature.key_of`: forms that are given it need not compute it."""


class Operators:
    """Registers the operators of a signature and calls them.

    `implementations`: what runs a form, by the dispatch key of its tensors ("CPU", "CUDA"); looked up
    at each call.
    """

    def __init__(self, signature: Signature, implementations: dict[str, Implementation]) -> None:
        self.signature = signature
        self.implementations = implementations
        self.forward_form = signature.forms["forward"]
        self.backward_form = signature.forms["backward"]
        self.namespace = _free_namespace(f"laspc_{signature.name}")
        # The registrations last as long as this object.
        self._library = torch.library.Library(self.namespace, "FRAGMENT")
        #: The gradients without those of inputs that all tokens share, where a call wants none of these.
        self.fixed_form = signature.forms.get("backward_fixed")
        for form in (self.forward_form, self.backward_form, self.fixed_form):
            if form is not None:
                self._define(form)
        self._differentiate()
        self.forward = getattr(torch.ops, self.namespace).forward.default
        self.backward = getattr(torch.ops, self.namespace).backward.default

    def __call__(
        self,
        inputs: Sequence[Tensor],
        initial_state: State,
        cu_seqlens: Optional[Tensor],
        token_offset: int = 0,
    ) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
        """Outputs and final states. Raises as `checks.checked_sizes` says."""
        inputs, states = self.given(inputs, initial_state)
        sizes = checked_sizes(self.signature, inputs, states, cu_seqlens, token_offset)
        device = inputs[0].device
        segment = self.segment_length("forward", sizes, device)
        results = _as_tuple(self.forward(*inputs, *states, cu_seqlens, token_offset, segment))
        count, last = len(self.signature.outputs), len(self.forward_form.outputs)
        return results[:count], results[count:last]

    def segment_length(self, form_name: str, sizes: CallSizes, device: torch.device) -> int:
        """Tokens of the segments that a form is computed by on a device; 0: in one piece."""
        implementation = self.implementations.get(device.type.upper())
        if implementation is None or implementation.length is None or is_step(sizes):
            return 0
        return implementation.length(form_name, sizes, device)

    def run(
        self,
        form_name: str,
        known: Mapping[str, Tensor],
        cu_seqlens: Optional[Tensor],
        sizes: CallSizes,
    ) -> dict[str, Tensor]:
        """Outputs of any form, by name, from its inputs by name. Knows no gradient."""
        form = self.signature.forms[form_name]
        device = next(iter(known.values())).device
        if device.type.upper() not in self.implementations:
            raise ValueError(
                f"{self.signature.name}: tensors are on {device.type}, not on cpu or cuda"
            )
        sizes = sizes._replace(segment=self.segment_length(form_name, sizes, device))
        check_cuts_if_asked(self.signature.name, cu_seqlens, sizes)
        # The arithmetic is float32 by definition, whatever surrounds it.
        with torch.no_grad(), torch.autocast(device.type, enabled=False):
            run = self.implementations[device.type.upper()].run
            found = run(form, known, cu_seqlens, sizes)
        return {spec.name: found[spec.name] for spec in form.outputs}

    def intra(
        self, known: Mapping[str, Tensor], cu_seqlens: Optional[Tensor], sizes: CallSizes
    ) -> dict[str, Tensor]:
        """What chunks give of inputs alone, for `run` of all forms in one piece; empty where that is nothing."""
        device = next(iter(known.values())).device
        implementation = self.implementations.get(device.type.upper())
        by_segments = self.segment_length("forward", sizes, device) > 0
        if implementation is None or implementation.intra is None or by_segments or is_step(sizes):
            return {}
        with torch.no_grad(), torch.autocast(device.type, enabled=False):
            return dict(implementation.intra(known, cu_seqlens, sizes))

    def zero_state(self, name: str, sizes: CallSizes, device: torch.device) -> Tensor:
        """The state of no tokens."""
        spec = next(x for x in self.forward_form.inputs if x.name == f"initial_{name}")
        return torch.zeros(shape_of(spec, sizes), dtype=spec.dtype, device=device)

    def given(
        self, inputs: Sequence[Tensor], initial_state: State
    ) -> tuple[list[Tensor], list[Optional[Tensor]]]:
        """Inputs and states of a call as the surrounding autocast has them."""
        states = self.given_states(initial_state)
        device_type = inputs[0].device.type if isinstance(inputs[0], Tensor) else ""
        count, specs = len(self.signature.inputs), self.forward_form.inputs
        return (
            under_autocast(specs[:count], inputs, device_type),
            under_autocast(specs[count:], states, device_type),
        )

    def given_states(self, initial_state: State) -> list[Optional[Tensor]]:
        name, states = self.signature.name, self.signature.states
        if initial_state is None:
            return [None for _ in states]
        if len(states) == 1:
            return [initial_state]  # type: ignore[list-item]
        if not isinstance(initial_state, Mapping):
            kind = type(initial_state).__name__
            raise TypeError(f"{name}: initial_state must be a dict of {', '.join(states)}, not {kind}")
        if set(initial_state) != set(states):
            given = ", ".join(initial_state) or "nothing"
            raise ValueError(f"{name}: initial_state holds {given}, but {', '.join(states)} is needed")
        return [initial_state[state] for state in states]

    # --- registration ------------------------------------------------------------------------------

    def _define(self, form: Form) -> None:
        """Makes an operator of a form: tensors in, what the forward kept behind those of gradients; then cuts, the place
        of the first token, and the tokens of a segment.
        """
        taken = self._taken(form)
        types = ["Tensor?" if may_be_absent(spec) else "Tensor" for spec in taken]
        arguments = [f"{kind} {name}" for kind, name in zip(types, _argument_names(taken))]
        takes = ", ".join([*arguments, *_OTHER_ARGUMENTS])
        given = self._given(form)
        gives = ", ".join("Tensor" for _ in given)
        returns = gives if len(given) == 1 else f"({gives})"
        qualified = f"{self.namespace}::{form.name}"
        tags = (torch.Tag.pt2_compliant_tag,)
        self._library.define(f"{form.name}({takes}) -> {returns}", tags=tags)
        for key in self.implementations:
            self._library.impl(form.name, self._runner(form, key), key)

        def fake(*arguments: Any) -> Any:
            sizes = self._sizes(arguments)
            first = arguments[0]
            shapes = [shape_of(spec, sizes) for spec in form.outputs]
            shapes += self._kept_shapes(sizes, first.device)[: len(given) - len(shapes)]
            return _unwrapped(
                [first.new_empty(shape, dtype=spec.dtype) for spec, shape in zip(given, shapes)]
            )

        def vmapped(*_: Any) -> Any:
            raise NotImplementedError(
                f"{self.signature.name} has no rule for torch.vmap: it maps over B and H itself"
            )

        torch.library.register_fake(qualified, fake, lib=self._library)
        torch.library.register_vmap(qualified, vmapped, lib=self._library)

    def _runner(self, form: Form, key: str) -> Callable[..., Any]:
        taken, given = self._taken(form), self._given(form)

        def run(*arguments: Any) -> Any:
            *tensors, cu_seqlens, _, _ = arguments
            first, own = tensors[0], len(form.inputs)
            known = {spec.name: x for spec, x in zip(form.inputs, tensors) if x is not None}
            # What is empty was not kept.
            kept = zip(taken[own:], tensors[own:])
            known |= {key_of(spec): x for spec, x in kept if x.numel() > 0}
            sizes = self._sizes(arguments)
            check_cuts_if_asked(self.signature.name, cu_seqlens, sizes)
            # The arithmetic is float32 by definition, whatever surrounds it.
            with torch.autocast(first.device.type, enabled=False):
                found = dict(self.implementations[key].run(form, known, cu_seqlens, sizes))
            for spec in given:
                found.setdefault(key_of(spec), first.new_empty((0,), dtype=spec.dtype))
            return _unwrapped([found[key_of(spec)] for spec in given])

        return run

    def _taken(self, form: Form) -> tuple[Spec, ...]:
        """What a form's operator takes."""
        return form.inputs if form is self.forward_form else (*form.inputs, *self.signature.kept)

    def _given(self, form: Form) -> tuple[Spec, ...]:
        """What a form's operator gives."""
        return (*form.outputs, *self.signature.kept) if form is self.forward_form else form.outputs

    def _kept_shapes(self, sizes: CallSizes, device: torch.device) -> list[tuple[int, ...]]:
        implementation = self.implementations.get(device.type.upper())
        if implementation is None or implementation.length is None:
            return [(0,) for _ in self.signature.kept]
        return [kept_shape(spec, sizes) for spec in self.signature.kept]

    def _sizes(self, arguments: Sequence[Any]) -> CallSizes:
        """The sizes of a call to an operator; inputs and initial states come first in all forms."""
        *tensors, cu_seqlens, token_offset, segment = arguments
        count = len(self.signature.inputs)
        states = tensors[count : count + len(self.signature.states)]
        sizes = checked_sizes(self.signature, tensors[:count], states, cu_seqlens, token_offset)
        return sizes._replace(segment=segment)

    def _differentiate(self) -> None:
        forward = self.forward_form

        def save(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
            *tensors, cu_seqlens, token_offset, segment = inputs
            kept = _as_tuple(output)[len(forward.outputs) :]
            ctx.save_for_backward(*tensors, *kept, cu_seqlens)
            ctx.mark_non_differentiable(*kept)
            ctx.set_materialize_grads(False)
            ctx.integers = (token_offset, segment)

        def gradient(ctx: Any, *cotangents: Optional[Tensor]) -> tuple[Optional[Tensor], ...]:
            *tensors, cu_seqlens = ctx.saved_tensors
            names = [f"d_{spec.name}" for spec in forward.inputs]
            wanted = {name for name, is_needed in zip(names, ctx.needs_input_grad) if is_needed}
            form = self.gradient_form(wanted)
            saved = (*forward.inputs, *self.signature.kept)
            known = {spec.name: x for spec, x in zip(saved, tensors)}
            for spec, x in zip(forward.outputs, cotangents):
                if x is None and not may_be_absent(spec._replace(name=f"d_{spec.name}")):
                    sizes = self._sizes((*tensors, cu_seqlens, *ctx.integers))
                    x = tensors[0].new_zeros(shape_of(spec, sizes), dtype=spec.dtype)
                known[f"d_{spec.name}"] = x
            call = getattr(getattr(torch.ops, self.namespace), form.name).default
            taken = (known[spec.name] for spec in self._taken(form))
            found = call(*taken, cu_seqlens, *ctx.integers)
            results = dict(zip((spec.name for spec in form.outputs), _as_tuple(found)))
            given = (results.get(name) if name in wanted else None for name in names)
            return (*given, None, None, None)

        def no_gradient(ctx: Any, *_: Tensor) -> Any:
            raise NotImplementedError(f"{self.signature.name} has no second derivatives")

        def forget(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
            return None

        last = () if self.fixed_form is None else (("backward_fixed", no_gradient, forget),)
        for name, backward, setup in (
            ("forward", gradient, save),
            ("backward", no_gradient, forget),
            *last,
        ):
            torch.library.register_autograd(
                f"{self.namespace}::{name}", backward, setup_context=setup, lib=self._library
            )

    def gradient_form(self, wanted: set[str]) -> Form:
        """The form that gives gradients of such names, `d_<input>`, and no more than needs be."""
        fixed = self.fixed_form
        if fixed is not None and wanted <= {spec.name for spec in fixed.outputs}:
            return fixed
        return self.backward_form


def _free_namespace(wanted: str) -> str:
    """The name, or with a number behind it: packages of other sizes may be loaded beside this one."""
    name, number = wanted, 2
    while hasattr(getattr(torch.ops, name), "forward"):
        name, number = f"{wanted}_{number}", number + 1
    return name


_OTHER_ARGUMENTS = ("Tensor? cu_seqlens", "SymInt token_offset", "SymInt segment")


def _argument_names(specs: Sequence[Spec]) -> list[str]:
    names = {argument.split()[-1] for argument in _OTHER_ARGUMENTS}
    unique = []
    for spec in specs:
        name = spec.name
        while keyword.iskeyword(name) or name in names:
            name += "_"
        names.add(name)
        unique.append(name)
    return unique


def _as_tuple(results: Any) -> tuple[Tensor, ...]:
    return (results,) if isinstance(results, Tensor) else tuple(results)


def _unwrapped(results: Sequence[Tensor]) -> Any:
    """An operator of one output gives a tensor, not a tuple."""
    return results[0] if len(results) == 1 else tuple(results)
