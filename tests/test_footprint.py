"""Bytes alive at once, counted without computing: against sums by hand, and against torch's own count."""

import torch
from torch import nn

from latentsync.footprint import largest_leaf_bytes, peak_bytes, weight_bytes

KIB = 1024


def test_what_is_alive_at_once_is_counted_and_what_is_given_is_not():
    given = torch.zeros(256, dtype=torch.float32)  # 1 KiB
    assert peak_bytes(lambda: given + 1) == KIB
    assert peak_bytes(lambda: (given + 1) * 2) == 2 * KIB  # the sum lives until the product is there
    assert peak_bytes(lambda: [given + 1, given + 2, given + 3]) == 3 * KIB
    assert peak_bytes(lambda: [None for _ in range(9) if (given + 1) is None]) == KIB  # freed every time


def test_views_and_changes_in_place_take_nothing():
    given = torch.zeros(16, 16)
    assert peak_bytes(lambda: (given + 1).view(256)[:10].add_(1).t()) == KIB


def test_nothing_is_computed():
    given = torch.zeros(8)
    assert peak_bytes(lambda: given.add(torch.empty(10**12, dtype=torch.int8).sum())) >= 10**12


def test_weights_of_a_module_and_of_its_largest_layer():
    module = nn.Sequential(nn.Linear(10, 100, bias=False), nn.BatchNorm1d(100), nn.Linear(100, 1, bias=False))
    assert weight_bytes(module) == 4 * (1000 + 4 * 100 + 100) + 8  # batches are counted in int64
    assert largest_leaf_bytes(module) == 4000


def test_attention_is_counted_without_its_table_of_weights():
    q = torch.zeros(1, 2, 2048, 16)
    assert peak_bytes(lambda: nn.functional.scaled_dot_product_attention(q, q, q)) < 2 * 2048 * 2048
