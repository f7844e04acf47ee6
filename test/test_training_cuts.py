# Copyright 2026 The sparse_split_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Where a network is best cut for hierarchical training."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

torch = pytest.importorskip('torch')
pytest.importorskip('onnx')

from test_training_folder import RECIPE as PHOTOS  # noqa: E402
from test_training_hierarchical import RECIPE  # noqa: E402

from sparse_split_ros.cli import main  # noqa: E402
from sparse_split_ros.training.cuts import Cut, Place, Whole, measure  # noqa: E402

torch.set_num_threads(1)

CUT = Cut(split=1, forward_ms=1.0, backward_ms=3.0, cloud_ms=5.0, bytes=125.0)
WHOLE = Whole(ms=6.0, bytes=12_500.0)


@pytest.mark.parametrize(
    ('slower', 'mbit', 'cut', 'waiting'),
    [(1, 1000, 5.0, 1 + 5.001), (10, 1000, 40.0, 10 + 30), (1, 0.1, 10.0, 1 + 10 + 5)],
)
def test_the_slowest_of_edge_link_and_cloud_decides(
    slower: float, mbit: float, cut: float, waiting: float
) -> None:
    where = Place(slower, mbit)
    assert where.ms(CUT) == pytest.approx(cut)
    assert where.waiting_ms(CUT) == pytest.approx(waiting)


def test_images_sent_whole_are_waited_for_by_the_link_or_the_cloud() -> None:
    fast, slow = Place(1, 1000), Place(1, 10)
    assert fast.whole_ms(WHOLE) == pytest.approx(6.0)
    assert slow.whole_ms(WHOLE) == pytest.approx(10.0)
    assert slow.whole_waiting_ms(WHOLE) == pytest.approx(16.0)


def test_every_cut_is_timed_with_the_bytes_that_travel() -> None:
    whole, cuts = measure(RECIPE, 3, rounds=1)
    assert [cut.split for cut in cuts] == [0, 1, 2]
    assert whole.bytes == 3 * 32 * 32 + 4
    # Two, four and four channels of 4 bits.
    sides = {0: 8, 1: 4, 2: 4}
    channels = {0: 2, 1: 4, 2: 4}
    for cut in cuts:
        assert cut.bytes == channels[cut.split] * sides[cut.split] ** 2 / 2 + 4
        assert min(cut.forward_ms, cut.backward_ms, cut.cloud_ms) > 0


@pytest.mark.parametrize('words', [('--slower', 'inf'), ('--mbit', 'nan'), ('--classes', '0')])
def test_what_no_cut_can_be_reckoned_with_is_named(
    tmp_path: Path, words: tuple[str, str], capsys
) -> None:
    recipe = tmp_path / 'recipe.yaml'
    recipe.write_text(yaml.safe_dump({**PHOTOS, 'hierarchical': True}))
    assert main(['cut', str(recipe), '--rounds', '1', *words]) == 2
    assert f'{words[0]} is {words[1]}, expected' in capsys.readouterr().err
