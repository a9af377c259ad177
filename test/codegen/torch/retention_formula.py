"""retention in plain PyTorch, chunk by chunk: what runs where there is no GPU."""

from __future__ import annotations

import torch
from torch import Tensor

from .tensor_ops import Sizes, cat, causal, chunks, cumsum, stack


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
        log_decay = sizes.full(1.0, chunk.count) * x[..., None]
        k_rows = k[..., chunk.rows, :]
        v_rows = v[..., chunk.rows, :]
        q_rows = q[..., chunk.rows, :]
        # retention.lasp:7  return (scores @ v) / sqrt(K)
        log_decay_sum = cumsum(log_decay, -1)
        from_start = torch.exp(log_decay_sum)
        q_decayed = q_rows * from_start[..., None]
        inter = q_decayed @ S
        scores = q_rows @ k_rows.mT
        mask = causal(x[..., None], sizes, chunk.count)
        masked = scores * mask
        intra = masked @ v_rows
        log_decay_total = log_decay.sum(-1)
        chunk_decay = torch.exp(log_decay_total)
        log_decay_rest = cumsum(log_decay, -1, reverse=True, exclusive=True)
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
        log_decay = sizes.full(1.0, chunk.count) * torch.log(gamma)[..., None]
        k_rows = k[..., chunk.rows, :]
        v_rows = v[..., chunk.rows, :]
        # retention.lasp:7  return (scores @ v) / sqrt(K)
        log_decay_total = log_decay.sum(-1)
        chunk_decay = torch.exp(log_decay_total)
        log_decay_rest = cumsum(log_decay, -1, reverse=True, exclusive=True)
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
        # retention.lasp:6  scores = (q @ k.T) * causal_decay(log(gamma))
        x = torch.log(gamma)
        log_decay_2 = sizes.full(1.0, chunk.count) * x[..., None]
        k_rows_2 = k[..., chunk.rows, :]
        v_rows_2 = v[..., chunk.rows, :]
        q_rows = q[..., chunk.rows, :]
        # retention.lasp:7  return (scores @ v) / sqrt(K)
        log_decay_sum = cumsum(log_decay_2, -1)
        from_start = torch.exp(log_decay_sum)
        q_decayed = q_rows * from_start[..., None]
        scores = q_rows @ k_rows_2.mT
        mask = causal(x[..., None], sizes, chunk.count)
        masked = scores * mask
        log_decay_total_2 = log_decay_2.sum(-1)
        chunk_decay_2 = torch.exp(log_decay_total_2)
        log_decay_rest_2 = cumsum(log_decay_2, -1, reverse=True, exclusive=True)
        to_end_2 = torch.exp(log_decay_rest_2)
        k_decayed_2 = k_rows_2 * to_end_2[..., None]
        d_o_rows = d_o[..., chunk.rows, :]
        x_2 = d_o_rows / 8.0
        x_3 = v_rows_2 @ d_S.mT
        x_4 = cumsum((x_3 * k_rows_2).sum(-1) * to_end_2, -1, exclusive=True)
        x_5 = sizes.full(1.0, chunk.count) * ((d_S * S_rows).sum(-1).sum(-1) * chunk_decay_2)[..., None]
        x_6 = x_2 @ v_rows_2.mT
        x_7 = x_6 * mask
        x_8 = sizes.count(chunk.count)
        x_9 = x_8[..., :, None] * sizes.full(1.0, chunk.count)[..., None, :]
        x_10 = sizes.full(1.0, chunk.count)[..., :, None] * x_8[..., None, :]
        x_11 = x_2 @ S_rows.mT
        x_12 = cumsum((x_11 * q_rows).sum(-1) * from_start, -1, reverse=True)
        x_13 = (x_6 * scores * mask * (x_9 - x_10)).sum(-1).sum(-1) + (x_4 + x_5 + x_12).sum(-1)
        d_q_parts.append(x_7 @ k_rows_2 + x_11 * from_start[..., None])
        d_v_parts.append(k_decayed_2 @ d_S + masked.mT @ x_2)
        d_k_parts.append(x_3 * to_end_2[..., None] + x_7.mT @ q_rows)
        d_S, d_gamma = d_S * chunk_decay_2[..., None, None] + q_decayed.mT @ x_2, d_gamma + x_13 / gamma
    d_q = cat(d_q_parts[::-1], sizes, 64)
    d_v = cat(d_v_parts[::-1], sizes, 64)
    d_k = cat(d_k_parts[::-1], sizes, 64)
    return (d_q, d_k, d_v, d_gamma, d_S)
