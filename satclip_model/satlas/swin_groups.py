"""Stages of Swin Transformer V2 on a processor: attention windows in groups that fit its cache.

The same sums as torchvision's blocks, in another order of memory: tokens lie by attention window from the first block
of a stage to the last, so that a block moves them once instead of four times, and a group of windows passes through
attention, projection and perceptron before the next one is touched. Attention is PyTorch's fused kernel.
"""

import math
from functools import lru_cache
from typing import Final

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional
from torchvision.models.swin_transformer import ShiftedWindowAttentionV2, SwinTransformerBlockV2

GROUP_TOKENS: Final = 2048
"""Tokens of a group; from 1,024 to 4,096 times differ by less than the noise of a machine."""
_MASKED: Final = -100.0
_LARGEST_SCALE: Final = math.log(100.0)
_SMALLEST_NORM: Final = 1e-12


def fits_groups(blocks: nn.Sequential, rows: int, columns: int) -> bool:
    """Whether a stage can go through maps of a size: attention windows must tile it without padding."""
    return all(
        isinstance(block, SwinTransformerBlockV2)
        and rows % block.attn.window_size[0] == 0
        and columns % block.attn.window_size[1] == 0
        for block in blocks
    )


def run_stage(
    blocks: nn.Sequential, maps: Float[Tensor, "batch rows columns dim"]
) -> Float[Tensor, "batch rows columns dim"]:
    """What the blocks of a stage make of maps, in evaluation mode and without gradients.

    Args:
        blocks: Of torchvision's Swin Transformer V2.
        maps: In float32, of a size for which `fits_groups` holds.
    """
    batch, rows, columns, dim = maps.shape
    in_rows = torch.arange(rows * columns)
    lying, tokens = in_rows, maps.reshape(batch * rows * columns, dim).clone()
    for block in blocks.children():
        assert isinstance(block, SwinTransformerBlockV2)
        window, shift = _window_and_shift(block.attn, rows, columns)
        wanted = _window_order(rows, columns, window, shift)
        lying, tokens = wanted, _reordered(tokens, lying, wanted)
        bias = block.attn.get_relative_position_bias()
        if any(shift):
            bias = bias + _shift_mask(rows, columns, window, shift)
        _run_block(block, tokens.view(-1, window[0] * window[1], dim), bias)
    return _reordered(tokens, lying, in_rows).view(batch, rows, columns, dim)


def _window_and_shift(
    attention: ShiftedWindowAttentionV2, rows: int, columns: int
) -> tuple[tuple[int, int], tuple[int, int]]:
    """A map that is a single attention window high, or wide, is not shifted that way."""
    high, wide = attention.window_size
    down, right = attention.shift_size
    return (high, wide), (down if high < rows else 0, right if wide < columns else 0)


@lru_cache(maxsize=64)
def _window_order(rows: int, columns: int, window: tuple[int, int], shift: tuple[int, int]) -> Tensor:
    """Positions of a map, window by window."""
    places = torch.arange(rows * columns).view(rows, columns).roll((-shift[0], -shift[1]), (0, 1))
    return _by_window(places, window).flatten()


@lru_cache(maxsize=64)
def _shift_mask(rows: int, columns: int, window: tuple[int, int], shift: tuple[int, int]) -> Tensor:
    """What keeps apart the tokens of a window that a shift brought together, (windows, 1, tokens, tokens)."""
    parts = _parts(rows, window[0], shift[0])[:, None] * 3 + _parts(columns, window[1], shift[1])[None]
    parts = _by_window(parts, window)
    apart = parts[:, None, :] != parts[:, :, None]
    return torch.zeros(apart.shape).masked_fill(apart, _MASKED)[:, None]


def _parts(size: int, window: int, shift: int) -> Tensor:
    parts = torch.zeros(size, dtype=torch.long)
    if shift:
        parts[size - window : size - shift] = 1
        parts[size - shift :] = 2
    return parts


def _by_window(grid: Tensor, window: tuple[int, int]) -> Tensor:
    high, wide = window
    cut = grid.view(len(grid) // high, high, -1, wide)
    return cut.transpose(1, 2).reshape(-1, high * wide)


def _reordered(tokens: Tensor, lying: Tensor, wanted: Tensor) -> Tensor:
    """Tokens of several maps that lie in one order each, in another."""
    if torch.equal(lying, wanted):
        return tokens
    where = torch.empty_like(lying)
    where[lying] = torch.arange(len(lying))
    first = torch.arange(0, len(tokens), len(lying))[:, None]
    return tokens.index_select(0, (first + where[wanted]).flatten())


def _run_block(
    block: SwinTransformerBlockV2,
    windows: Float[Tensor, "window token dim"],
    bias: Float[Tensor, "window_of_map head token token"],
) -> None:
    """Takes windows through a block, in place; ``bias`` is for each window of a map, or one for all."""
    group, per_map = max(GROUP_TOKENS // windows.shape[1], 1), len(bias)
    if per_map == 1:
        for part in torch.split(windows, group):
            _run_group(block, part, bias)
    elif per_map <= group:
        maps = min(group, len(windows)) // per_map
        repeated = bias.repeat(maps, 1, 1, 1)
        for part in torch.split(windows, maps * per_map):
            _run_group(block, part, repeated[: len(part)])
    else:
        for of_map in torch.split(windows, per_map):
            for part, own in zip(torch.split(of_map, group), torch.split(bias, group), strict=True):
                _run_group(block, part, own)


def _run_group(block: SwinTransformerBlockV2, windows: Tensor, bias: Tensor) -> None:
    tokens = windows.flatten(0, 1)
    tokens += block.norm1(_attend(block.attn, windows, bias))
    widen, _, _, narrow, _ = block.mlp
    wide = torch.ops.aten.gelu_(widen(tokens))
    tokens += block.norm2(narrow(wide))


def _attend(attention: ShiftedWindowAttentionV2, windows: Tensor, bias: Tensor) -> Tensor:
    """Cosine attention within windows and its projection, (windows x tokens, dim)."""
    number, length, dim = windows.shape
    offset = attention.qkv.bias.clone()
    offset[dim : 2 * dim] = 0
    each = functional.linear(windows, attention.qkv.weight, offset).view(number, length, 3, attention.num_heads, -1)
    compared = each[:, :, :2]
    factors = torch.linalg.vector_norm(compared, dim=-1, keepdim=True).clamp_min_(_SMALLEST_NORM).reciprocal_()
    factors[:, :, 0] *= attention.logit_scale.clamp(max=_LARGEST_SCALE).exp().view(-1, 1)
    compared *= factors
    queries, keys, values = each.permute(2, 0, 3, 1, 4)
    mixed = functional.scaled_dot_product_attention(queries, keys, values, attn_mask=bias, scale=1.0)
    return functional.linear(
        mixed.transpose(1, 2).reshape(number * length, dim), attention.proj.weight, attention.proj.bias
    )
