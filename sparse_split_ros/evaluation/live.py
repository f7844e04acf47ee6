# Copyright 2026 The sparse_split_ros authors
# SPDX-License-Identifier: Apache-2.0
"""What a run looks like while it runs: a table on a terminal, plain lines anywhere else."""

from __future__ import annotations

import threading
import time
from collections import deque
from dataclasses import dataclass, field
from types import TracebackType

import numpy as np
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from sparse_split_ros.evaluation.metrics import Outcome
from sparse_split_ros.evaluation.tables import PLAIN
from sparse_split_ros.policy.decision import Route

STYLES = {Route.LOCAL: 'green', Route.OFFBOARD: 'dodger_blue2', Route.FALLBACK: 'dark_orange'}

_REFRESH_HZ = 4
_LINE_EVERY_S = 2.0
_BAR_WIDTH = 18


@dataclass
class _Tally:
    """Counts of one row; latencies in ms and sizes in bytes of the latest frames only."""

    count: int = 0
    known: int = 0
    right: int = 0
    routes: dict[Route, int] = field(default_factory=lambda: dict.fromkeys(Route, 0))
    latency: deque[float] = field(default_factory=lambda: deque(maxlen=500))
    sizes: deque[int] = field(default_factory=lambda: deque(maxlen=500))

    def add(self, outcome: Outcome) -> None:
        self.count += 1
        self.known += outcome.correct is not None
        self.right += outcome.correct is True
        if outcome.route is not None:
            self.routes[outcome.route] += 1
        self.latency.append(outcome.latency)
        if outcome.payload_bytes:
            self.sizes.append(outcome.payload_bytes)

    @property
    def accuracy(self) -> str:
        return f'{self.right / self.known:.1%}' if self.known else '–'

    def percentile(self, q: float) -> str:
        return f'{np.percentile(self.latency, q):.1f}' if self.latency else '–'

    @property
    def bytes(self) -> str:
        return f'{np.mean(self.sizes):.0f}' if self.sizes else '–'

    def share(self, route: Route) -> float:
        return self.routes[route] / self.count if self.count else 0.0


class Board:
    """Shows outcomes as they come; a context manager. ``add`` and ``say`` may come from any thread.

    On a terminal it draws itself a few times a second; elsewhere it prints one line every two.
    """

    def __init__(self, console: Console, frames: int) -> None:
        self.title = ''
        self.tail = 'starting'
        self._console = console
        self._frames = frames
        self._lock = threading.Lock()
        self._start = time.monotonic()
        self._all = _Tally()
        self._by_route = {route: _Tally() for route in Route}
        self._by_scene: dict[str, _Tally] = {}
        self._last: Outcome | None = None
        self._events: deque[str] = deque(maxlen=4)
        self._printed = self._start
        self._live: Live | None = None

    def __enter__(self) -> Board:
        self._start = self._printed = time.monotonic()
        if self._console.is_terminal and not self._console.is_dumb_terminal:
            self._live = Live(
                get_renderable=self._render,
                console=self._console,
                refresh_per_second=_REFRESH_HZ,
                transient=False,
            )
            self._live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._live is not None:
            self._live.stop()
        elif self._all.count:
            self._print(self._line())

    def add(self, outcome: Outcome) -> None:
        """Take in a frame's outcome."""
        with self._lock:
            self._last = outcome
            self._all.add(outcome)
            if outcome.route is not None:
                self._by_route[outcome.route].add(outcome)
            if outcome.scene is not None:
                self._by_scene.setdefault(outcome.scene, _Tally()).add(outcome)
        if self._live is None and time.monotonic() - self._printed >= _LINE_EVERY_S:
            self._printed = time.monotonic()
            self._print(self._line())

    def say(self, text: str) -> None:
        """Tell of an event, with the time it happened."""
        line = f'{time.monotonic() - self._start:5.1f} s  {text}'
        with self._lock:
            self._events.append(line)
        if self._live is None:
            self._print(line)

    def _print(self, line: str) -> None:
        self._console.out(line, highlight=False)

    def _line(self) -> str:
        with self._lock:
            tally, last = self._all, self._last
            shares = ' '.join(f'{route.value} {tally.share(route):.0%}' for route in Route)
            scene = (last.scene if last else None) or '–'
            return (
                f'{time.monotonic() - self._start:5.1f} s  {tally.count}/{self._frames} frames  '
                f'{scene:<5}  accuracy {tally.accuracy}  {shares}  latency p50 '
                f'{tally.percentile(50)} p95 {tally.percentile(95)} ms  payload {tally.bytes} B  '
                f'tail {self.tail}'
            )

    def _render(self) -> RenderableType:
        with self._lock:
            return Group(
                Text(self.title, style='bold'),
                self._progress(),
                self._now(),
                '',
                self._routes(),
                '',
                self._scenes(),
                '',
                *(Text(line, style='dim') for line in self._events),
            )

    def _progress(self) -> Table:
        seconds = time.monotonic() - self._start
        row = Table.grid(padding=(0, 2))
        row.add_row(
            ProgressBar(total=self._frames, completed=self._all.count, width=40),
            f'{self._all.count} of {self._frames} frames',
            f'{seconds:.0f} s',
        )
        return row

    def _now(self) -> Text:
        text = Text('tail ')
        text.append(self.tail, style='green' if self.tail == 'up' else 'bold dark_orange')
        last = self._last
        if last is not None and last.route is not None:
            mark = {True: ' ✓', False: ' ✗', None: ''}[last.correct]
            text.append(f'   scene {last.scene or "–"}   now ')
            text.append(f'{last.answer}{mark} {last.confidence:.0%}')
            text.append(f'  {last.route.value}, exit {last.exit}', style=STYLES[last.route])
        return text

    def _routes(self) -> Table:
        table = Table(**PLAIN)
        table.add_column('route', min_width=9)
        for name in ('frames', 'share', 'accuracy', 'p50 ms', 'p95 ms', 'bytes'):
            table.add_column(name, justify='right')
        table.add_column('')
        for route, tally in self._by_route.items():
            share = self._all.share(route)
            bar = Text('█' * round(share * _BAR_WIDTH), style=STYLES[route])
            table.add_row(
                Text(route.value, style=STYLES[route]), str(tally.count), f'{share:.1%}',
                tally.accuracy, tally.percentile(50), tally.percentile(95), tally.bytes, bar,
            )  # fmt: skip
        tally = self._all
        table.add_row(
            'all', str(tally.count), '', tally.accuracy, tally.percentile(50),
            tally.percentile(95), tally.bytes, ' ' * _BAR_WIDTH, style='bold',
        )  # fmt: skip
        return table

    def _scenes(self) -> Table:
        table = Table(**PLAIN)
        table.add_column('scene', min_width=9)
        for name in ('frames', 'accuracy', 'p95 ms'):
            table.add_column(name, justify='right')
        table.add_column('who answered', min_width=_BAR_WIDTH)
        for scene, tally in self._by_scene.items():
            bar = Text()
            for route in Route:
                bar.append('█' * round(tally.share(route) * _BAR_WIDTH), style=STYLES[route])
            table.add_row(scene, str(tally.count), tally.accuracy, tally.percentile(95), bar)
        return table
