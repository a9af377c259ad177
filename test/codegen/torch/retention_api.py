"""retention, compiled by laspc from retention.lasp."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor

from .binding import GROUPED, OPERATORS

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup


def retention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    gamma: Tensor,
    initial_state: Tensor | None = None,
    output_final_state: bool = False,
    cu_seqlens: Tensor | None = None,
    group: ProcessGroup | None = None,
    schedule: str = "auto",
) -> tuple[Tensor, Tensor | None]:
    """Retention (RetNet, arXiv 2307.08621, equation 5): a constant decay for each head.

    The definition, for one sequence and one head:

        // Retention (RetNet, arXiv 2307.08621, equation 5): a constant decay for each head.
        //
        //   o_t = q_t S_t / sqrt(K),   S_t = gamma S_{t-1} + k_t v_t^T

        attention retention(q: [T, K], k: [T, K], v: [T, V], gamma: scalar per head in (0, 1]) -> [T, V] {
          scores = (q @ k.T) * causal_decay(log(gamma))
          return (scores @ v) / sqrt(K)
        }

    T, B and the heads may be any; H is the most heads of any input, and each input's heads divide H.
    K = 64, V = 64 are fixed in this package.
    Decays are natural logarithms. Sums and states are float32.

    Args:
        q: [B, T, heads, K], float32
        k: [B, T, heads, K], float32
        v: [B, T, heads, V], float32
        gamma: [heads], float32, in (0, 1]
        initial_state: [N, H, 64, 64], float32, the state before the first token; zero
            when it is not given. N is B, or the number of packed sequences.
        output_final_state: also return the state after the last token.
        cu_seqlens: [N + 1], int32 or int64, on the inputs' device: N sequences of any lengths lie
            one behind the other in one row (B = 1); sequence i is the tokens cu_seqlens[i] to
            cu_seqlens[i + 1]. Begins with 0, never falls, ends with T. On a GPU its numbers are not
            checked, since that would wait for it: kernels stay inside the tensors whatever they are.
            LASPC_CHECK_CUTS=1 in the environment checks them, and waits.
        group: the processes that share out the sequence; each calls with its own tokens, in the
            order of their ranks, as many as it has (or none). initial_state is given where the
            sequence begins, rank 0 (for a state that runs backwards the last rank). The final state
            is everywhere the one after that rank's tokens: on the last rank the whole sequence's.
            With cu_seqlens every rank says where its part of each of the N sequences lies.
            All ranks call, and all go backwards. Gradients of inputs without tokens are this rank's
            part: sum them over the group, as DDP does up to its division.
        schedule: with a group, how states travel: "ring", from rank to rank; "allgather", all to
            all at once; "auto", all at once but for two ranks of a delta rule.

    Returns:
        o: [B, T, heads, V], float32,
        and the final state like initial_state, or None without output_final_state.
        Gradients flow to every input and to the initial state, once; not twice.

    Raises:
        TypeError: an argument is not a tensor, or of another dtype than above.
        ValueError: shapes do not fit each other or what is above, or devices differ.
    """
    if group is not None:
        outputs, states = GROUPED((q, k, v, gamma), initial_state, cu_seqlens, group, schedule)
    else:
        outputs, states = OPERATORS((q, k, v, gamma), initial_state, cu_seqlens)
    return outputs[0], (states[0] if output_final_state else None)
