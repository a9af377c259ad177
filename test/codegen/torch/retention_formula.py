"""retention in plain PyTorch, chunk by chunk: what runs where there is no GPU."""

from __future__ import annotations

import torch
from torch import Tensor

from .tensor_ops import Sizes, below, cat, causal, chunks, stack


def forward(
    sizes: Sizes,
    q: Tensor,  # [B, H, T, 64]
    k: Tensor,  # [B, H, T, 64]
    v: Tensor,  # [B, H, T, 64]
    gamma: Tensor,  # [B, H]
    initial_S: Tensor,  # [B, H, 64, 64]
) -> tuple[Tensor, ...]:
    """Gives o, final_S."""
    # retention.lasp:5  attention retention(q: [T, K], k: [T, K], v: [T, V], gamma: scalar per head in (0, 1]) -> [T, V] {
    gamma_2 = gamma.clamp(min=1.1754943508222875e-38)
    gamma_3 = torch.log(gamma_2)
    gamma_4 = (gamma >= 1.1754943508222875e-38).to(sizes.dtype)
    gamma_5 = torch.where(gamma_4 != 0.0, gamma_3, -1024.0)
    S = initial_S
    o_parts: list[Tensor] = []
    for chunk in chunks(sizes.T, 64):
        k_rows = k[..., chunk.rows, :]
        v_rows = v[..., chunk.rows, :]
        q_rows = q[..., chunk.rows, :]
        # retention.lasp:7  return (scores @ v) / sqrt(K)
        x = sizes.count(chunk.count)
        log_decay_sum = (x + 1.0) * gamma_5[..., None]
        from_start = torch.exp(log_decay_sum)
        q_decayed = q_rows * from_start[..., None]
        inter = q_decayed @ S
        scores = q_rows @ k_rows.mT
        mask = causal(gamma_5[..., None], sizes, chunk.count)
        masked = scores * mask
        intra = below(masked, v_rows)
        tokens_here = sizes.full(float(chunk.count))
        log_decay_total = gamma_5 * tokens_here
        chunk_decay = torch.exp(log_decay_total)
        log_decay_rest = ((tokens_here - 1.0)[..., None] - x).clamp(min=0.0) * gamma_5[..., None]
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
        # retention.lasp:5  attention retention(q: [T, K], k: [T, K], v: [T, V], gamma: scalar per head in (0, 1]) -> [T, V] {
        gamma_2 = (gamma >= 1.1754943508222875e-38).to(sizes.dtype)
        gamma_3 = gamma.clamp(min=1.1754943508222875e-38)
        gamma_4 = torch.log(gamma_3)
        gamma_5 = torch.where(gamma_2 != 0.0, gamma_4, -1024.0)
        # retention.lasp:7  return (scores @ v) / sqrt(K)
        tokens_here = sizes.full(float(chunk.count))
        log_decay_total = gamma_5 * tokens_here
        chunk_decay = torch.exp(log_decay_total)
        x = ((tokens_here - 1.0)[..., None] - sizes.count(chunk.count)).clamp(min=0.0)
        log_decay_rest = x * gamma_5[..., None]
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
        x_2 = sizes.count(chunk.count)
        x_3 = x_2 + 1.0
        # retention.lasp:5  attention retention(q: [T, K], k: [T, K], v: [T, V], gamma: scalar per head in (0, 1]) -> [T, V] {
        gamma_6 = (gamma >= 1.1754943508222875e-38).to(sizes.dtype)
        gamma_7 = gamma.clamp(min=1.1754943508222875e-38)
        gamma_8 = torch.log(gamma_7)
        gamma_9 = torch.where(gamma_6 != 0.0, gamma_8, -1024.0)
        # retention.lasp:7  return (scores @ v) / sqrt(K)
        log_decay_sum = x_3 * gamma_9[..., None]
        from_start = torch.exp(log_decay_sum)
        q_decayed = q_rows * from_start[..., None]
        scores = q_rows @ k_rows_2.mT
        mask = causal(gamma_9[..., None], sizes, chunk.count)
        masked = scores * mask
        tokens_here_2 = sizes.full(float(chunk.count))
        log_decay_total_2 = gamma_9 * tokens_here_2
        chunk_decay_2 = torch.exp(log_decay_total_2)
        x_4 = ((tokens_here_2 - 1.0)[..., None] - x_2).clamp(min=0.0)
        log_decay_rest_2 = x_4 * gamma_9[..., None]
        to_end_2 = torch.exp(log_decay_rest_2)
        k_decayed_2 = k_rows_2 * to_end_2[..., None]
        d_o_rows = d_o[..., chunk.rows, :]
        x_5 = v_rows_2 @ d_S.mT
        x_6 = (d_S * S_rows).sum(-1).sum(-1) * chunk_decay_2 * tokens_here_2
        x_7 = d_o_rows @ v_rows_2.mT * 0.125
        x_8 = k_decayed_2 @ d_S + below((masked * 0.125).mT, d_o_rows, upper=True)
        x_9 = x_7 * mask
        x_10 = x_2[..., :, None] * sizes.full(1.0, chunk.count)[..., None, :]
        x_11 = sizes.full(1.0, chunk.count)[..., :, None] * x_2[..., None, :]
        x_12 = ((x_5 * k_rows_2).sum(-1) * to_end_2 * x_4).sum(-1) + x_6 + (x_7 * scores * mask * (x_10 - x_11)).sum(-1).sum(-1)
        x_13 = x_5 * to_end_2[..., None] + below(x_9.mT, q_rows, upper=True)
        x_14 = d_o_rows @ S_rows.mT * 0.125
        x_15 = d_S * chunk_decay_2[..., None, None] + (q_decayed * 0.125).mT @ d_o_rows
        # retention.lasp:5  attention retention(q: [T, K], k: [T, K], v: [T, V], gamma: scalar per head in (0, 1]) -> [T, V] {
        x_16 = torch.where(gamma_6 != 0.0, x_12 + ((x_14 * q_rows).sum(-1) * from_start * x_3).sum(-1), 0.0)
        d_q_parts.append(below(x_9, k_rows_2) + x_14 * from_start[..., None])
        d_v_parts.append(x_8)
        d_k_parts.append(x_13)
        d_S, d_gamma = x_15, d_gamma + x_16 / gamma_7 * gamma_6
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
    # retention.lasp:5  attention retention(q: [T, K], k: [T, K], v: [T, V], gamma: scalar per head in (0, 1]) -> [T, V] {
    gamma_2 = gamma.clamp(min=1.1754943508222875e-38)
    gamma_3 = torch.log(gamma_2)
    gamma_4 = (gamma >= 1.1754943508222875e-38).to(sizes.dtype)
    gamma_5 = torch.where(gamma_4 != 0.0, gamma_3, -1024.0)
    S = sizes.zeros(64, 64)
    decay_S = sizes.zeros()
    for chunk in chunks(sizes.T, 64):
        k_rows = k[..., chunk.rows, :]
        v_rows = v[..., chunk.rows, :]
        # retention.lasp:7  return (scores @ v) / sqrt(K)
        tokens_here = sizes.full(float(chunk.count))
        log_decay_total = gamma_5 * tokens_here
        chunk_decay = torch.exp(log_decay_total)
        x = ((tokens_here - 1.0)[..., None] - sizes.count(chunk.count)).clamp(min=0.0)
        log_decay_rest = x * gamma_5[..., None]
        to_end = torch.exp(log_decay_rest)
        k_decayed = k_rows * to_end[..., None]
        decay_S_2 = (sizes.full(1.0, chunk.count) * gamma_5[..., None]).sum(-1)
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
        # retention.lasp:5  attention retention(q: [T, K], k: [T, K], v: [T, V], gamma: scalar per head in (0, 1]) -> [T, V] {
        gamma_2 = (gamma >= 1.1754943508222875e-38).to(sizes.dtype)
        gamma_3 = gamma.clamp(min=1.1754943508222875e-38)
        gamma_4 = torch.log(gamma_3)
        gamma_5 = torch.where(gamma_2 != 0.0, gamma_4, -1024.0)
        # retention.lasp:7  return (scores @ v) / sqrt(K)
        log_decay_sum = (sizes.count(chunk.count) + 1.0) * gamma_5[..., None]
        from_start = torch.exp(log_decay_sum)
        q_decayed = q_rows * from_start[..., None]
        tokens_here = sizes.full(float(chunk.count))
        log_decay_total = gamma_5 * tokens_here
        chunk_decay = torch.exp(log_decay_total)
        d_o_rows = d_o[..., chunk.rows, :]
        x = d_S * chunk_decay[..., None, None] + (q_decayed * 0.125).mT @ d_o_rows
        d_S = x
    return (d_S,)
