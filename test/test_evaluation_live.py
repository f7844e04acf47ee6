# Copyright 2026 The sparse_split_ros authors
# SPDX-License-Identifier: Apache-2.0
"""The live table on a terminal, and the plain lines elsewhere."""

from __future__ import annotations

import io

from rich.console import Console

from sparse_split_ros.evaluation.live import Board
from sparse_split_ros.evaluation.metrics import Outcome
from sparse_split_ros.policy.decision import Reason, Route


def outcome(index: int, route: Route, answer: str = 'stop', scene: str = 'fog') -> Outcome:
    return Outcome(
        index, index / 30, index / 30, 'stop', scene, answer, route, Reason.CONFIDENT, 0, 1, 0.9,
        scene, 0 if route is Route.LOCAL else 222, 3.0, 4.0,
    )  # fmt: skip


def shown(terminal: bool) -> str:
    out = io.StringIO()
    console = Console(
        file=out,
        force_terminal=terminal,
        width=80,
        height=24,
        color_system=None,
        legacy_windows=False,
    )
    board = Board(console, 4)
    board.title = 'a title'
    with board:
        board.add(outcome(0, Route.LOCAL))
        board.add(outcome(1, Route.LOCAL, 'yield'))
        board.add(outcome(2, Route.OFFBOARD))
        board.say('something [happened]')
        board.tail = 'up'
    return out.getvalue()


def test_without_a_terminal_there_are_plain_lines(monkeypatch) -> None:
    monkeypatch.setenv('TERM', 'dumb')
    text = shown(terminal=False)
    assert '\x1b' not in text
    lines = text.splitlines()
    assert lines[0].endswith('something [happened]')
    assert '3/4 frames' in lines[-1] and 'accuracy 66.7%' in lines[-1]
    assert 'local 67% offboard 33% fallback 0%' in lines[-1] and 'tail up' in lines[-1]


def test_on_a_terminal_there_is_a_table_of_routes_and_scenes(monkeypatch) -> None:
    monkeypatch.setenv('TERM', 'xterm-256color')
    text = shown(terminal=True)
    rows = [line.split() for line in text.splitlines()]
    assert ['local', '2', '66.7%', '50.0%', '3.0', '3.0', '–'] in [row[:7] for row in rows]
    assert ['offboard', '1', '33.3%', '100.0%', '3.0', '3.0', '222'] in [row[:7] for row in rows]
    assert ['fog', '3', '66.7%', '3.0'] in [row[:4] for row in rows]
    assert 'something [happened]' in text


def test_the_table_fits_80_columns_and_24_lines(monkeypatch) -> None:
    monkeypatch.setenv('TERM', 'xterm-256color')
    out = io.StringIO()
    board = Board(Console(file=out, width=80, height=24, color_system=None), 2000)
    board.title = 'bundle gtsrb32 · embedded, Cyclone DDS 11.0.1 (this host only), domain 100'
    scenes = ('day', 'dusk', 'night', 'glare', 'fog', 'rain', 'snow')
    for index in range(1001):
        board.add(outcome(index, list(Route)[index % 3], scene=scenes[index % 7]))
    board._console.print(board._render())
    lines = out.getvalue().splitlines()
    assert max(map(len, lines)) <= 80
    assert len(lines) <= 24
