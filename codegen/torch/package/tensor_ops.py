"""What the printed functions call beside torch: sizes, loops over chunks, masks, sums over tokens.

Tensors are [B, H, own axes]; either of the first two may be of size 1, or both missing, where a value does
not vary. Own axes are therefore counted from the last.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Optional, Sequence, Tuple

import torch
from torch import Tensor


@dataclass(frozen=True)
class Sizes:
    """Sizes of a call, and what its arithmetic is done in."""

    B: int
    T: int
    H: int
    T_total: int
    """Tokens of the whole sequence."""
    token_offset: int
    """Place of the first token here in the whole sequence."""
    dtype: torch.dtype
    device: torch.device

    def zeros(self, *dims: int) -> Tensor:
        """Zeros for each batch and head: [B, H, *dims]."""
        return torch.zeros(self.B, self.H, *dims, dtype=self.dtype, device=self.device)

    def full(self, value: float, *dims: int) -> Tensor:
        """The number at every place of [*dims]."""
        return torch.full(dims, value, dtype=self.dtype, device=self.device)

    def count(self, size: int) -> Tensor:
        """0, 1, ..., size - 1."""
        return torch.arange(size, dtype=self.dtype, device=self.device)

    def tokens(self) -> Tensor:
        """The place of each token in the whole sequence: [T]."""
        return self.count(self.T) + self.token_offset


@dataclass(frozen=True)
class Chunk:
    """Consecutive tokens."""

    index: int
    rows: slice
    count: int


def chunks(tokens: int, length: int) -> list[Chunk]:
    """The tokens in chunks of `length`; the last one may be shorter."""
    starts = range(0, tokens, length)
    ends = [min(start + length, tokens) for start in starts]
    return [
        Chunk(index, slice(start, end), end - start)
        for index, (start, end) in enumerate(zip(starts, ends))
    ]


def cat(parts: Sequence[Tensor], sizes: Sizes, *dims: int) -> Tensor:
    """Parts [tokens, *dims] one behind the other."""
    return torch.cat(list(parts), dim=-1 - len(dims)) if parts else sizes.zeros(0, *dims)


def stack(parts: Sequence[Tensor], sizes: Sizes, *dims: int) -> Tensor:
    """Values [*dims] as rows: [len(parts), *dims]."""
    return torch.stack(list(parts), dim=-1 - len(dims)) if parts else sizes.zeros(0, *dims)


def cumsum(
    x: Tensor,
    axis: int,
    *,
    reverse: bool = False,
    exclusive: bool = False,
    block: Optional[int] = None,
    earlier: Optional[Tuple[bool, bool]] = None,
) -> Tensor:
    """Sums over tokens up to each one; from the last token back with `reverse`.

    A sum holds its own token unless it is `exclusive`. With `block`, sums start anew at its multiples;
    `earlier` are `reverse` and `exclusive` of blocks 0, 2, 4, ... where they differ from those between.
    """
    if block is not None:
        count = x.shape[axis]
        # Zeros behind the last token change no sum.
        missing = list(x.shape)
        missing[axis] = -count % block
        padded = torch.cat([x, x.new_zeros(missing)], dim=axis)
        blocks = padded.unflatten(axis, (-1, block))
        sums = cumsum(blocks, axis, reverse=reverse, exclusive=exclusive)
        if earlier is not None:
            others = cumsum(blocks, axis, reverse=earlier[0], exclusive=earlier[1])
            is_later = torch.arange(blocks.shape[axis - 1], device=x.device) % 2 == 1
            sums = torch.where(is_later.view(-1, *[1] * -axis), sums, others)
        return sums.flatten(axis - 1, axis).narrow(axis, 0, count)
    if reverse:
        return cumsum(x.flip(axis), axis, exclusive=exclusive).flip(axis)
    if not exclusive:
        return x.cumsum(axis)
    # Shifted, not subtracted: the difference of two large sums would lose the small ones.
    before = torch.cat([torch.zeros_like(x.narrow(axis, 0, 1)), x], dim=axis)
    return before.narrow(axis, 0, x.shape[axis]).cumsum(axis)


def causal(
    log_decay: Optional[Tensor],
    sizes: Sizes,
    count: int,
    *,
    strict: bool = False,
    reverse: bool = False,
) -> Tensor:
    """The mask D[i, j] = exp(g[j + 1] + ... + g[i]) for j <= i, else 0, for `count` tokens.

    `log_decay` is g, [count] or [1]; None: all ones. `strict`: exp(g[j + 1] + ... + g[i - 1]) for j < i.
    `reverse`: the same with time running from the last token to the first.
    """
    below = torch.ones(count, count, dtype=torch.bool, device=sizes.device).tril(-1 if strict else 0)
    if log_decay is None:
        mask = below.to(sizes.dtype)
        return mask.mT if reverse else mask
    g = log_decay.expand(*log_decay.shape[:-1], count)
    if reverse:
        g = g.flip(-1)
    # Each sum for itself: the difference of two prefix sums cancels where decays are strong.
    later = torch.ones(count, count, dtype=torch.bool, device=sizes.device).tril(-1)
    sums = cumsum(g[..., :, None].expand(*g.shape, count).where(later, 0.0), -2, exclusive=strict)
    # The exponent is masked, not the result: above the diagonal it may be anything.
    mask = torch.exp(sums.where(below, 0.0)).where(below, 0.0)
    return mask.flip(-1, -2) if reverse else mask


def block_mask(
    block: int, sizes: Sizes, count: int, *, reverse: bool = False, within: Optional[str] = None
) -> Tensor:
    """1 where row i lies in the later, column j in the earlier block of a pair of blocks, else 0.

    `block` 0 is the diagonal; `within`: where both lie in one block, j no later than i ("whole") or before it
    ("strict"); `reverse` swaps the two.
    """
    if block == 0:
        return torch.eye(count, dtype=sizes.dtype, device=sizes.device)
    blocks = torch.arange(count, device=sizes.device) // block
    late, early = blocks[:, None], blocks[None, :]
    if within is not None:
        same = (late == early).to(sizes.dtype).tril(-1 if within == "strict" else 0)
        return same.mT if reverse else same
    mask = ((early % 2 == 0) & (late == early + 1)).to(sizes.dtype)
    return mask.mT if reverse else mask


def below(triangle: Tensor, x: Tensor, *, upper: bool = False, strict: bool = False) -> Tensor:
    """triangle @ x, without the terms of what lies above the diagonal (`upper`: below it; `strict`: nor on it).

    0 times what is no number is none either: a NaN in a row of x would reach the rows before it.
    """
    product = triangle @ x
    if bool(torch.isfinite(product).all()):
        return product
    terms = triangle.new_ones(triangle.shape[-2:])
    terms = terms.triu(1 if strict else 0) if upper else terms.tril(-1 if strict else 0)
    inside = terms != 0
    is_bad = ~torch.isfinite(x)
    # Of the same shapes, and so with the same bits wherever all terms are numbers.
    clean = triangle.where(inside, 0.0) @ x.where(~is_bad, 0.0)
    return clean.where(terms @ is_bad.to(terms.dtype) == 0, product)


def solve(matrix: Tensor, rhs: Tensor, *, upper: bool = False) -> Tensor:
    """X with (I - L) X = rhs, L the part of `matrix` strictly below (`upper`: above) its diagonal."""
    strict = matrix.triu(1) if upper else matrix.tril(-1)
    return torch.linalg.solve_triangular(-strict, rhs, upper=upper, unitriangular=True)


def rotate_half(x: Tensor) -> Tensor:
    """The last axis's two halves swapped, the new first half negated."""
    first, second = x.chunk(2, dim=-1)
    return torch.cat([-second, first], dim=-1)
