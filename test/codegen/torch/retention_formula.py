"""retention in plain PyTorch, chunk by chunk: what runs where there is no GPU."""

from __future__ import annotations

import torch
from torch import Tensor

from .tensor_ops import Sizes, cat, causal, chunks, stack


def forward(
    sizes: Sizes,
    q: Tensor,  # [B, H, T, 64]
    k: Tensor,  # [B, H, T, 64]
    v: Tensor,  # [B, H, T, 64]
    gamma: Tensor,  # [B, H]
    initial_S: Tensor,  # [B, H, 64, 64]
) -> tuple[Tensor, ...]:
    """Gives o, final_S."""
    # retention.lasp:6  scores = (q @ k.T) * causal_decay(log(gamma))
    x = torch.log(gamma)
    S = initial_S
    o_parts: list[Tensor] = []
    for chunk in chunks(sizes.T, 64):
        k_rows = k[..., chunk.rows, :]
        v_rows = v[..., chunk.rows, :]
        q_rows = q[..., chunk.rows, :]
        # retention.lasp:7  return (scores @ v) / sqrt(K)
        x_2 = sizes.count(chunk.count)
        log_decay_sum = (x_2 + 1.0) * x[..., None]
        from_start = torch.exp(log_decay_sum)
        q_decayed = q_rows * from_start[..., None]
        inter = q_decayed @ S
        scores = q_rows @ k_rows.mT
        mask = causal(x[..., None], sizes, chunk.count)
        masked = scores * mask
        intra = masked @ v_rows
        tokens_here = sizes.full(float(chunk.count))
        log_decay_total = x * tokens_here
        chunk_decay = torch.exp(log_decay_total)
        log_decay_rest = ((tokens_here - 1.0)[..., None] - x_2).clamp(min=0.0) * x[..., None]
        to_end = torch.exp(log_decay_rest)
        k_decayed = k_rows * to_end[..., None]
        o_parts.append((intra + inter) / 8.0)
        S = S * chunk_decay[..., None, None] + k_decayed.mT @ v_rows
    o = cat(o_parts, sizes, 64)
    return (o, S)


def backward(
    sizes: Sizes,
    q: Tensor,  # [B, H, T, 64]
    k: Tensor,  # [B, H, T, 64]
    v: Tensor,  # [B, H, T, 64]
    gamma: Tensor,  # [B, H]
    initial_S: Tensor,  # [B, H, 64, 64]
    d_o: Tensor,  # [B, H, T, 64]
    d_final_S: Tensor,  # [B, H, 64, 64]
) -> tuple[Tensor, ...]:
    """Gives d_q, d_k, d_v, d_gamma, d_initial_S. d_x is the gradient of a loss at x."""
    S = initial_S
    S_parts: list[Tensor] = []
    for chunk in chunks(sizes.T, 64):
        k_rows = k[..., chunk.rows, :]
        v_rows = v[..., chunk.rows, :]
        # retention.lasp:6  scores = (q @ k.T) * causal_decay(log(gamma))
        x = torch.log(gamma)
        # retention.lasp:7  return (scores @ v) / sqrt(K)
        tokens_here = sizes.full(float(chunk.count))
        log_decay_total = x * tokens_here
        chunk_decay = torch.exp(log_decay_total)
        x_2 = ((tokens_here - 1.0)[..., None] - sizes.count(chunk.count)).clamp(min=0.0)
        log_decay_rest = x_2 * x[..., None]
        to_end = torch.exp(log_decay_rest)
        k_decayed = k_rows * to_end[..., None]
        S_parts.append(S)
        S = S * chunk_decay[..., None, None] + k_decayed.mT @ v_rows
    S_2 = stack(S_parts, sizes, 64, 64)
    d_S = d_final_S
    d_gamma = sizes.zeros()
    d_q_parts: list[Tensor] = []
    d_v_parts: list[Tensor] = []
    d_k_parts: list[Tensor] = []
    for chunk in reversed(chunks(sizes.T, 64)):
        S_rows = S_2[..., chunk.index, :, :]
        k_rows_2 = k[..., chunk.rows, :]
        v_rows_2 = v[..., chunk.rows, :]
        q_rows = q[..., chunk.rows, :]
        # retention.lasp:7  return (scores @ v) / sqrt(K)
        x_3 = sizes.count(chunk.count)
        x_4 = x_3 + 1.0
        # retention.lasp:6  scores = (q @ k.T) * causal_decay(log(gamma))
        x_5 = torch.log(gamma)
        # retention.lasp:7  return (scores @ v) / sqrt(K)
        log_decay_sum = x_4 * x_5[..., None]
        from_start = torch.exp(log_decay_sum)
        q_decayed = q_rows * from_start[..., None]
        scores = q_rows @ k_rows_2.mT
        mask = causal(x_5[..., None], sizes, chunk.count)
        masked = scores * mask
        tokens_here_2 = sizes.full(float(chunk.count))
        log_decay_total_2 = x_5 * tokens_here_2
        chunk_decay_2 = torch.exp(log_decay_total_2)
        x_6 = ((tokens_here_2 - 1.0)[..., None] - x_3).clamp(min=0.0)
        log_decay_rest_2 = x_6 * x_5[..., None]
        to_end_2 = torch.exp(log_decay_rest_2)
        k_decayed_2 = k_rows_2 * to_end_2[..., None]
        d_o_rows = d_o[..., chunk.rows, :]
        x_7 = v_rows_2 @ d_S.mT
        x_8 = (d_S * S_rows).sum(-1).sum(-1) * chunk_decay_2 * tokens_here_2
        x_9 = d_o_rows @ v_rows_2.mT * 0.125
        x_10 = x_9 * mask
        x_11 = x_3[..., :, None] * sizes.full(1.0, chunk.count)[..., None, :]
        x_12 = sizes.full(1.0, chunk.count)[..., :, None] * x_3[..., None, :]
        x_13 = ((x_7 * k_rows_2).sum(-1) * to_end_2 * x_6).sum(-1) + x_8 + (x_9 * scores * mask * (x_11 - x_12)).sum(-1).sum(-1)
        x_14 = d_o_rows @ S_rows.mT * 0.125
        x_15 = d_S * chunk_decay_2[..., None, None] + (q_decayed * 0.125).mT @ d_o_rows
        # retention.lasp:6  scores = (q @ k.T) * causal_decay(log(gamma))
        x_16 = (x_13 + ((x_14 * q_rows).sum(-1) * from_start * x_4).sum(-1)) / gamma
        d_q_parts.append(x_10 @ k_rows_2 + x_14 * from_start[..., None])
        d_v_parts.append(k_decayed_2 @ d_S + (masked * 0.125).mT @ d_o_rows)
        d_k_parts.append(x_7 * to_end_2[..., None] + x_10.mT @ q_rows)
        d_S, d_gamma = x_15, d_gamma + x_16
    d_q = cat(d_q_parts[::-1], sizes, 64)
    d_v = cat(d_v_parts[::-1], sizes, 64)
    d_k = cat(d_k_parts[::-1], sizes, 64)
    return (d_q, d_k, d_v, d_gamma, d_S)


def summary(
    sizes: Sizes,
    k: Tensor,  # [B, H, T, 64]
    v: Tensor,  # [B, H, T, 64]
    gamma: Tensor,  # [B, H]
) -> tuple[Tensor, ...]:
    """Gives summary_S, decay_S."""
    # retention.lasp:6  scores = (q @ k.T) * causal_decay(log(gamma))
    x = torch.log(gamma)
    S = sizes.zeros(64, 64)
    decay_S = sizes.zeros()
    for chunk in chunks(sizes.T, 64):
        k_rows = k[..., chunk.rows, :]
        v_rows = v[..., chunk.rows, :]
        # retention.lasp:7  return (scores @ v) / sqrt(K)
        tokens_here = sizes.full(float(chunk.count))
        log_decay_total = x * tokens_here
        chunk_decay = torch.exp(log_decay_total)
        x_2 = ((tokens_here - 1.0)[..., None] - sizes.count(chunk.count)).clamp(min=0.0)
        log_decay_rest = x_2 * x[..., None]
        to_end = torch.exp(log_decay_rest)
        k_decayed = k_rows * to_end[..., None]
        decay_S_2 = (sizes.full(1.0, chunk.count) * x[..., None]).sum(-1)
        decay_S_3 = decay_S + decay_S_2
        S, decay_S = S * chunk_decay[..., None, None] + k_decayed.mT @ v_rows, decay_S_3
    return (S, decay_S)


def fold_S(
    sizes: Sizes,
    initial_S: Tensor,  # [B, H, 64, 64]
    summary_S: Tensor,  # [B, H, 64, 64]
    decay_S: Tensor,  # [B, H]
) -> tuple[Tensor, ...]:
    """Gives final_S."""
    final_S = initial_S * torch.exp(decay_S)[..., None, None] + summary_S
    return (final_S,)


def summary_bwd(
    sizes: Sizes,
    q: Tensor,  # [B, H, T, 64]
    gamma: Tensor,  # [B, H]
    d_o: Tensor,  # [B, H, T, 64]
) -> tuple[Tensor, ...]:
    """Gives d_summary_S."""
    d_S = sizes.full(0.0, 64, 64)
    for chunk in reversed(chunks(sizes.T, 64)):
        q_rows = q[..., chunk.rows, :]
        # retention.lasp:6  scores = (q @ k.T) * causal_decay(log(gamma))
        x = torch.log(gamma)
        # retention.lasp:7  return (scores @ v) / sqrt(K)
        log_decay_sum = (sizes.count(chunk.count) + 1.0) * x[..., None]
        from_start = torch.exp(log_decay_sum)
        q_decayed = q_rows * from_start[..., None]
        tokens_here = sizes.full(float(chunk.count))
        log_decay_total = x * tokens_here
        chunk_decay = torch.exp(log_decay_total)
        d_o_rows = d_o[..., chunk.rows, :]
        x_2 = d_S * chunk_decay[..., None, None] + (q_decayed * 0.125).mT @ d_o_rows
        d_S = x_2
    return (d_S,)
