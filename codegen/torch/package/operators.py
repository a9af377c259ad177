"""The attention as operators of `torch.library`: `laspc_<name>::forward` and `::backward`.

The operators change none of their arguments and know their outputs' shapes without running (for
`torch.compile`); the gradient of the one is the other. What computes them is `plain.py` for tensors on
the CPU and `kernels.py` for tensors on a GPU.
"""

from __future__ import annotations

import keyword
from typing import Any, Callable, Mapping, Optional, Sequence, Union

import torch
from torch import Tensor

from .checks import checked_sizes
from .signature import CallSizes, Form, Signature, shape_of

State = Union[None, Tensor, Mapping[str, Tensor]]
Implementation = Callable[
    [Form, Sequence[Tensor], Optional[Tensor], CallSizes], tuple[Tensor, ...]
]


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
        states = self.given_states(initial_state)
        sizes = checked_sizes(self.signature, inputs, states, cu_seqlens, token_offset)
        device = inputs[0].device
        initial = [
            self.zero_state(name, sizes, device) if state is None else state
            for name, state in zip(self.signature.states, states)
        ]
        results = _as_tuple(self.forward(*inputs, *initial, cu_seqlens, token_offset))
        count = len(self.signature.outputs)
        return results[:count], results[count:]

    def run(
        self,
        form_name: str,
        known: Mapping[str, Tensor],
        cu_seqlens: Optional[Tensor],
        sizes: CallSizes,
    ) -> dict[str, Tensor]:
        """Outputs of any form, by name, from its inputs by name. Knows no gradient."""
        form = self.signature.forms[form_name]
        tensors = [known[spec.name] for spec in form.inputs]
        device = tensors[0].device.type
        if device.upper() not in self.implementations:
            raise ValueError(f"{self.signature.name}: tensors are on {device}, not on cpu or cuda")
        # The arithmetic is float32 by definition, whatever surrounds it.
        with torch.no_grad(), torch.autocast(device, enabled=False):
            found = self.implementations[device.upper()](form, tensors, cu_seqlens, sizes)
        return {spec.name: x for spec, x in zip(form.outputs, found)}

    def zero_state(self, name: str, sizes: CallSizes, device: torch.device) -> Tensor:
        """The state of no tokens."""
        spec = next(x for x in self.forward_form.inputs if x.name == f"initial_{name}")
        return torch.zeros(shape_of(spec, sizes), dtype=spec.dtype, device=device)

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
        """Makes an operator of a form: tensors in, then cuts and the place of the first token."""
        arguments = [f"Tensor {name}" for name in _argument_names(form)]
        takes = ", ".join([*arguments, "Tensor? cu_seqlens", "SymInt token_offset"])
        gives = ", ".join("Tensor" for _ in form.outputs)
        returns = gives if len(form.outputs) == 1 else f"({gives})"
        qualified = f"{self.namespace}::{form.name}"
        tags = (torch.Tag.pt2_compliant_tag,)
        self._library.define(f"{form.name}({takes}) -> {returns}", tags=tags)
        for key in self.implementations:
            self._library.impl(form.name, self._runner(form, key), key)

        def fake(*arguments: Any) -> Any:
            sizes = self._sizes(form, arguments)
            first = arguments[0]
            return _unwrapped(
                [first.new_empty(shape_of(spec, sizes), dtype=spec.dtype) for spec in form.outputs]
            )

        def vmapped(*_: Any) -> Any:
            raise NotImplementedError(
                f"{self.signature.name} has no rule for torch.vmap: it maps over B and H itself"
            )

        torch.library.register_fake(qualified, fake, lib=self._library)
        torch.library.register_vmap(qualified, vmapped, lib=self._library)

    def _runner(self, form: Form, key: str) -> Callable[..., Any]:
        def run(*arguments: Any) -> Any:
            *tensors, cu_seqlens, _ = arguments
            sizes = self._sizes(form, arguments)
            # The arithmetic is float32 by definition, whatever surrounds it.
            with torch.autocast(tensors[0].device.type, enabled=False):
                return _unwrapped(self.implementations[key](form, tensors, cu_seqlens, sizes))

        return run

    def _sizes(self, form: Form, arguments: Sequence[Any]) -> CallSizes:
        """The sizes of a call to an operator; inputs and initial states come first in both forms."""
        *tensors, cu_seqlens, token_offset = arguments
        count = len(self.signature.inputs)
        states = tensors[count : count + len(self.signature.states)]
        return checked_sizes(self.signature, tensors[:count], states, cu_seqlens, token_offset)

    def _differentiate(self) -> None:
        count = len(self.forward_form.inputs)

        def save(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
            *tensors, cu_seqlens, token_offset = inputs
            ctx.save_for_backward(*tensors, cu_seqlens)
            ctx.token_offset = token_offset

        def gradient(ctx: Any, *cotangents: Tensor) -> tuple[Optional[Tensor], ...]:
            *tensors, cu_seqlens = ctx.saved_tensors
            names = [f"d_{spec.name}" for spec in self.forward_form.inputs]
            wanted = {name for name, is_needed in zip(names, ctx.needs_input_grad) if is_needed}
            form = self.gradient_form(wanted)
            call = getattr(getattr(torch.ops, self.namespace), form.name).default
            known = dict(zip(_tensor_names(self.backward_form), (*tensors, *cotangents)))
            found = call(*(known[name] for name in _tensor_names(form)), cu_seqlens, ctx.token_offset)
            by_name = dict(zip((spec.name for spec in form.outputs), _as_tuple(found)))
            return (*(by_name.get(name) for name in names), None, None)

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


def _tensor_names(form: Form) -> list[str]:
    return [spec.name for spec in form.inputs]


def _free_namespace(wanted: str) -> str:
    """The name, or with a number behind it: packages of other sizes may be loaded beside this one."""
    name, number = wanted, 2
    while hasattr(getattr(torch.ops, name), "forward"):
        name, number = f"{wanted}_{number}", number + 1
    return name


def _argument_names(form: Form) -> list[str]:
    names = {"cu_seqlens", "token_offset"}
    unique = []
    for spec in form.inputs:
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
