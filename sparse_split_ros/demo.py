# Copyright 2026 The sparse_split_ros authors
# SPDX-License-Identifier: Apache-2.0
"""The whole system on one machine: a drive in, answers out, the tail lost and found on the way.

Head and tail run as two operating-system processes. This process is the camera, and the listener
who asks for exactly one answer per accepted frame. Everything stays on this host and in a domain
of its own, so that no robot nearby takes our frames for its camera's.
"""

from __future__ import annotations

import itertools
import math
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import Progress

from sparse_split_ros import __version__, ros
from sparse_split_ros.data.bags import Frame, write_bag
from sparse_split_ros.data.drive import Drive, render_drive
from sparse_split_ros.data.pace import Pace
from sparse_split_ros.data.sources import open_source
from sparse_split_ros.evaluation.ledger import Key, Ledger, read_decision
from sparse_split_ros.evaluation.live import Board
from sparse_split_ros.evaluation.metrics import SUMMARY_FORMAT, Counts, Outcome, summarise
from sparse_split_ros.evaluation.provenance import machine, versions
from sparse_split_ros.evaluation.report import Report, write_report
from sparse_split_ros.evaluation.stream import class_meant
from sparse_split_ros.evaluation.tables import summary_table
from sparse_split_ros.link.announcement import Announcement, AnnouncementError
from sparse_split_ros.nodes import qos
from sparse_split_ros.nodes.domain import private_domain
from sparse_split_ros.nodes.messages import image_message, named, recorded_header
from sparse_split_ros.policy.decision import Reason, Route
from sparse_split_ros.runtime.bundle import Bundle, bundle_path

DEADLINE_MS = 100.0
# Playing takes at most this long unless a rate is asked for.
_PLAY_S = 45.0
_READY_S = 20.0
_DRAIN_S = 5.0
_SHUTDOWN_S = 2.0
_OUTAGE_S = 3.0
# From the announcement of a tail to the first answer it must give. Fast DDS, which rclpy takes by
# default, needs up to 3 s on one host for the shared memory of a killed process.
_RECOVERY_S = 4.0 if ros.RUNTIME == 'rclpy' else 1.0
# The tail is killed in this part of the drive, so that there is a before and an after.
_KILL_FROM, _KILL_UNTIL = 0.40, 0.55
_KILL_WINDOW = 60
# Of frames, in bytes: an hour of a large camera does not fit, and need not be shown.
_MEMORY = 2_000_000_000
_DOMAINS = range(40, 102)


class DemoError(Exception):
    """The demo cannot be shown; the message says why and where to look."""


@dataclass(frozen=True)
class Options:
    """What to show.

    ``drive`` is played as fast as ``rate`` says, None for real time or, for a long drive, what
    ends in 45 s. ``frames`` 0 means all of them. Raises DemoError.
    """

    drive: Path | None = None
    out: Path = Path('report')
    bundle: str = 'gtsrb32'
    rate: float | None = None
    frames: int = 0
    seed: int = 1
    kill: bool = True

    def __post_init__(self) -> None:
        if self.rate is not None and not 0.01 <= self.rate <= 1000:
            raise DemoError(f'--rate {self.rate:g} is outside 0.01 to 1000 times real time')
        if self.frames < 0:
            raise DemoError(f'--frames {self.frames} is negative, 0 means all')
        if not 0 <= self.seed < 2**31:
            raise DemoError(f'--seed {self.seed} is outside 0 to {2**31 - 1}')


class Role:
    """A node of ours as a process of its own, its log in a file."""

    def __init__(self, name: str, folder: Path, parameters: dict[str, Any]) -> None:
        self.name = name
        self.log = folder / f'{name}.log'
        arguments = [f'{key}:={value}' for key, value in parameters.items()]
        self._command = [
            sys.executable, '-m', 'sparse_split_ros.cli', name, '--ros-args',
            *itertools.chain.from_iterable(('-p', argument) for argument in arguments),
        ]  # fmt: skip
        self.log.unlink(missing_ok=True)
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it; a second start adds to the same log."""
        with self.log.open('ab') as log:
            # A session of its own: Ctrl-C is for us, who end it in order.
            self._process = subprocess.Popen(
                self._command, stdout=log, stderr=log, stdin=subprocess.DEVNULL,
                start_new_session=True,
            )  # fmt: skip

    @property
    def running(self) -> bool:
        """Whether the process is there."""
        return self._process is not None and self._process.poll() is None

    def kill(self) -> None:
        """SIGKILL: gone without a word, as when a machine loses power."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def end(self) -> tuple[int, float]:
        """SIGTERM; returns the exit status and how long it took in s. SIGKILL if it does not."""
        assert self._process is not None, 'only a started process ends'
        start = time.monotonic()
        self._process.send_signal(signal.SIGTERM)
        try:
            status = self._process.wait(5 * _SHUTDOWN_S)
        except subprocess.TimeoutExpired:
            self.kill()
            status = self._process.returncode
        return status, time.monotonic() - start

    def last_words(self) -> str:
        """The end of its log."""
        return '\n'.join(self.log.read_text(errors='replace').splitlines()[-8:])


@dataclass(frozen=True)
class _HeadReport:
    """The head's latest word about itself, and when it was heard."""

    heard: float
    counts: Counts
    link: str


class Witness(ros.Node):
    """The camera, and the one who notes what became of each of its images.

    Times are in s since :meth:`begin`.
    """

    def __init__(self, board: Board) -> None:
        super().__init__('demo')
        self.runtime = ', '.join(ros.runtime_notes(self)).removeprefix('runtime: ')
        self.ledger = Ledger()
        # When each start of the tail was first heard of, by session.
        self.tails: dict[int, float] = {}
        self.head: _HeadReport | None = None
        self._board = board
        self._pace = Pace()
        self._start = time.monotonic()
        self._image = self.create_publisher(ros.Image, 'image', qos.RESULT)
        self._truth = self.create_publisher(ros.Classification, 'ground_truth', qos.RESULT)
        self._scene = self.create_publisher(ros.Classification, 'scene', qos.RESULT)
        # Deeper than others need it: here a lost message would look like a lost answer.
        deep = ros.QoSProfile(depth=1000, reliability=ros.ReliabilityPolicy.RELIABLE)
        self.create_subscription(ros.Classification, 'classification', self._on_answer, deep)
        self.create_subscription(ros.DiagnosticArray, 'decision', self._on_decision, deep)
        self.create_subscription(ros.DiagnosticArray, '/diagnostics', self._on_diagnostics, deep)
        self.create_subscription(ros.String, 'tail/status', self._on_status, qos.LATCHED)

    def now(self) -> float:
        """Seconds since :meth:`begin`."""
        return time.monotonic() - self._start

    def missing(self) -> str:
        """What is not there yet that an image needs to be classified with the tail's help."""
        if not self._image.get_subscription_count():
            return 'nobody listens to image'
        if not (self.count_publishers('classification') and self.count_publishers('decision')):
            return 'nobody publishes classification and decision'
        if self.head is None or self.head.link != 'up':
            return 'the head has not found the tail'
        return ''

    def begin(self) -> None:
        """The first frame is about to be sent."""
        shift = self.now()
        self._start += shift
        self.tails = {session: heard - shift for session, heard in self.tails.items()}
        if self.head is not None:
            self.head = replace(self.head, heard=self.head.heard - shift)

    def send(self, index: int, frame: Frame) -> None:
        """Publish a frame as a camera would, its truth first."""
        header = recorded_header(frame.stamp_ns, frame.frame_id)
        if frame.label is not None:
            self._truth.publish(named(header, frame.label))
        if frame.scene is not None:
            self._scene.publish(named(header, frame.scene, frame.severity))
        message = image_message(frame.image, header)
        since = self._pace.time(frame.stamp_ns)
        self.ledger.send(_key(header), Outcome(index, since, self.now(), frame.label, frame.scene))
        self._image.publish(message)

    def _on_answer(self, message: ros.Classification) -> None:
        name = message.results[0].class_id if message.results else ''
        self._show(self.ledger.answer(_key(message.header), name, self.now()))

    def _on_decision(self, message: ros.DiagnosticArray) -> None:
        values = {value.key: value.value for value in message.status[0].values}
        self._show(self.ledger.decide(_key(message.header), read_decision(values)))

    def _show(self, outcome: Outcome | None) -> None:
        if outcome is not None:
            self._board.add(outcome)

    def _on_diagnostics(self, message: ros.DiagnosticArray) -> None:
        for status in message.status:
            values = {value.key: value.value for value in status.values}
            if 'accepted' in values:
                names = ('received', 'accepted', 'dropped', 'rejected', 'failed')
                counts = Counts(*(int(values[name]) for name in names))
                self.head = _HeadReport(self.now(), counts, values['link'])

    def _on_status(self, message: ros.String) -> None:
        try:
            session = Announcement.from_json(message.data).session
        except AnnouncementError as error:
            self._board.say(str(error))
            return
        self.tails.setdefault(session, self.now())


def _key(header: ros.Header) -> Key:
    return header.stamp.sec, header.stamp.nanosec, header.frame_id


@contextmanager
def _spinning(board: Board) -> Iterator[Witness]:
    """A witness whose messages are taken in by a thread of their own."""
    witness = Witness(board)
    executor = ros.SingleThreadedExecutor()
    executor.add_node(witness)
    stopping = threading.Event()

    def spin() -> None:
        while not stopping.is_set():
            executor.spin_once(timeout_sec=0.1)

    thread = threading.Thread(target=spin, name='listener', daemon=True)
    thread.start()
    try:
        yield witness
    finally:
        stopping.set()
        thread.join()
        witness.destroy_node()


class Camera(threading.Thread):
    """Sends frames at their own pace times a rate; a context manager."""

    def __init__(self, witness: Witness, frames: Sequence[Frame], rate: float) -> None:
        super().__init__(name='camera', daemon=True)
        self._witness, self._frames, self._rate = witness, frames, rate
        self._stopping = threading.Event()

    def __enter__(self) -> Camera:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        self.join()

    def run(self) -> None:
        """Send them all, or until told to stop."""
        start, pace = time.monotonic(), Pace()
        for index, frame in enumerate(self._frames):
            due = start + pace.time(frame.stamp_ns) / self._rate
            if self._stopping.wait(max(0.0, due - time.monotonic())):
                return
            self._witness.send(index, frame)


class Outage:
    """Kills the tail once, starts it again, and measures what that does to the answers.

    Times are in s since the first frame was sent, as in :class:`Outcome`.
    """

    def __init__(
        self, tail: Role, witness: Witness, board: Board, frames: int, play_s: float
    ) -> None:
        self._tail, self._witness, self._board = tail, witness, board
        self._frames = frames
        self._down_s = min(_OUTAGE_S, 0.12 * play_s)
        self._known = set(witness.tails)
        self._seen = 0
        self._killed = math.nan
        self._restarted = math.nan
        self._recovered = math.nan
        self._fallbacks: list[Outcome] = []

    def step(self) -> None:
        """Do what is due now; called again and again."""
        now = self._witness.now()
        if math.isnan(self._killed):
            if self._is_time():
                self._kill()
        elif math.isnan(self._restarted) and now - self._killed > self._down_s:
            self._tail.start()
            self._restarted = now
            self._board.tail = 'starting again'
            self._board.say('the tail is started again')
        else:
            self._watch()

    def _is_time(self) -> bool:
        """While some frames are sure and some are not, so that both kinds can be seen."""
        outcomes = self._witness.ledger.answered
        share = len(outcomes) / self._frames
        if share < _KILL_FROM:
            return False
        routes = Counter(outcome.route for outcome in outcomes[-_KILL_WINDOW:])
        return share > _KILL_UNTIL or min(routes[Route.LOCAL], routes[Route.OFFBOARD]) >= 6

    def _kill(self) -> None:
        self._seen = len(self._witness.ledger.answered)
        self._killed = self._witness.now()
        self._tail.kill()
        self._board.tail = 'killed'
        self._board.say('the tail is killed (SIGKILL), doubtful frames will find nobody')

    def _watch(self) -> None:
        """Read the answers since the last look for the loss and the recovery."""
        outcomes = self._witness.ledger.answered
        while self._seen < len(outcomes) and math.isnan(self._recovered):
            outcome = outcomes[self._seen]
            self._seen += 1
            if outcome.route is Route.FALLBACK:
                self._fallbacks.append(outcome)
                if len(self._fallbacks) == 1:
                    self._board.tail = 'lost'
                    self._board.say(
                        f'loss noticed after {self._noticed_ms():.0f} ms: frame {outcome.index} '
                        f'waited {outcome.latency:.0f} ms'
                    )
            elif outcome.route is Route.OFFBOARD and outcome.wall > self._restarted:
                self._recovered = outcome.received
                self._board.tail = 'up'
                self._board.say(
                    f'first answer {self._first_answer_ms():.0f} ms after the new tail announced '
                    f'itself; {len(self._late())} of {len(self._fallbacks)} fallbacks after that'
                )

    def _noticed_ms(self) -> float:
        received = self._fallbacks[0].received if self._fallbacks else math.nan
        return (received - self._killed) * 1e3

    def _announced(self) -> float:
        heard = (at for who, at in self._witness.tails.items() if who not in self._known)
        return min(heard, default=math.nan)

    def _first_answer_ms(self) -> float:
        """From the announcement to the first answer, which also waits for a doubtful frame."""
        # Head and demo hear the announcement each for themselves, the head perhaps first.
        return max(0.0, (self._recovered - self._announced()) * 1e3)

    def _late(self) -> list[Outcome]:
        """The doubtful frames that found no tail although it was there again."""
        announced = self._announced()
        return [each for each in self._fallbacks if each.wall > announced]

    def figures(self) -> dict[str, Any]:
        """What was measured, in s since the first frame and in ms; None for what did not happen."""
        waited = [each for each in self._fallbacks if each.reason is Reason.DEADLINE]
        figures = {
            'killed_s': self._killed,
            'restarted_s': self._restarted,
            'announced_s': self._announced(),
            'recovered_s': self._recovered,
            'noticed_ms': self._noticed_ms(),
            'longest_wait_ms': max((each.latency for each in waited), default=math.nan),
            'first_answer_ms': self._first_answer_ms(),
        }
        return {
            **{name: None if math.isnan(value) else value for name, value in figures.items()},
            'first_frame': self._fallbacks[0].index if self._fallbacks else None,
            'last_frame': self._fallbacks[-1].index if self._fallbacks else None,
            'waited': len(waited),
            'fallbacks': len(self._fallbacks),
            'fallbacks_after_return': len(self._late()),
        }

    def problems(self) -> list[str]:
        """What should have happened and did not."""
        if math.isnan(self._killed):
            return ['the run ended before the tail could be killed, play more frames']
        long_after = self._announced() + _RECOVERY_S
        after = [each for each in self._fallbacks if each.wall > long_after]
        if after:
            return [f'{len(after)} frames fell back long after the tail was there again']
        return []


@dataclass(frozen=True)
class _Record:
    """All that a run left behind."""

    outcomes: list[Outcome]
    counts: Counts
    outage: dict[str, Any] | None
    shutdown_s: dict[str, float]
    problems: list[str]
    runtime: str


def run_demo(options: Options, console: Console) -> int:
    """Show the whole system and write its report; returns the exit status.

    0 means that every accepted frame got exactly one answer and both nodes ended in order; 1 that
    something did not hold, which is said. Raises DemoError, DomainError, BundleError, BagError
    and SourceError.
    """
    began = time.monotonic()
    bundle = Bundle.load(bundle_path(options.bundle))
    source, frames = _frames(options, bundle, console)
    rate = options.rate or max(1.0, _duration(frames) / _PLAY_S)
    options.out.mkdir(parents=True, exist_ok=True)
    with private_domain(_DOMAINS) as domain, _quick_switches():
        record = _play(options, bundle, frames, rate, console)
    summary = {
        'format': SUMMARY_FORMAT,
        'kind': 'demo',
        **summarise(record.outcomes, record.counts, DEADLINE_MS),
        'policy': 'fixed',
        'split': bundle.defaults.split,
        'threshold': bundle.defaults.threshold,
        'codec': bundle.defaults.codec,
        'bundle': {'name': bundle.name, 'fingerprint': bundle.fingerprint.hex()},
        'link': 'loopback',
        'robot': 'this machine',
        'tail_outage': record.outage,
        'shutdown_s': record.shutdown_s,
        'errors': record.problems,
        'runtime': record.runtime,
        'domain': domain,
        'source': source,
        'rate': rate,
        'seed': options.seed,
        'machine': machine(),
        'versions': versions(),
    }
    summary['wall_s'] = time.monotonic() - began
    report = Report(
        title='A drive with sparse_split_ros',
        outcomes=record.outcomes,
        summary=summary,
        images={number: frame.image for number, frame in enumerate(frames)},
        input_bytes=math.prod(bundle.input.shape),
    )
    with console.status('writing the report'):
        page = write_report(report, options.out)
    console.print(summary_table(summary))
    console.out(f'report: {page}', highlight=False)
    for problem in record.problems:
        console.out(f'error: {problem}', style='bold red', highlight=False)
    return 1 if record.problems else 0


def _frames(options: Options, bundle: Bundle, console: Console) -> tuple[str, list[Frame]]:
    """What will be played, with a word on what it is; a drive that is not there is rendered."""
    path = options.drive or _cache() / f'drive_{__version__}_{options.seed}'
    if not path.exists():
        drive = Drive(seed=options.seed)
        path.parent.mkdir(parents=True, exist_ok=True)
        console.out(f'{path} is not there: a drive is drawn into it', highlight=False)
        with Progress(console=console, transient=True) as progress:
            task = progress.add_task(f'rendering {path}', total=drive.frames)
            write_bag(
                path,
                render_drive(drive, lambda done, _: progress.update(task, completed=done)),
            )
    frames: list[Frame] = []
    size = 0
    for frame in itertools.islice(open_source(str(path)), options.frames or None):
        size += frame.image.nbytes
        if size > _MEMORY:
            raise DemoError(
                f'{path}: {len(frames)} of its frames fill the {_MEMORY / 1e9:g} GB of memory that '
                f'the demo takes: play no more by --frames {len(frames)}, or evaluate {path}'
            )
        frames.append(frame)
    if not frames:
        raise DemoError(f'{path} holds no frames, there is nothing to show')
    keys = {(frame.stamp_ns, frame.frame_id) for frame in frames}
    if len(keys) < len(frames):
        raise DemoError(f'{path} repeats stamps, answers could not be told apart')
    return path.name, _labelled(frames, bundle, console)


def _labelled(frames: list[Frame], bundle: Bundle, console: Console) -> list[Frame]:
    """The frames with the bundle's classes for labels, with a word on what is none."""
    labels: dict[str | None, str | None] = {
        frame.label: class_meant(frame.label, bundle.classes)
        for frame in frames
        if frame.label is not None
    }
    if unknown := [repr(label) for label, meant in labels.items() if meant is None]:
        console.out(
            f'labels such as {", ".join(unknown[:3])} are no class of {bundle.name}: such frames '
            'count as unlabelled', highlight=False,
        )  # fmt: skip
    return [replace(frame, label=labels.get(frame.label)) for frame in frames]


def _cache() -> Path:
    return Path(os.environ.get('XDG_CACHE_HOME') or Path.home() / '.cache') / 'sparse_split_ros'


def _duration(frames: Sequence[Frame]) -> float:
    pace = Pace()
    return max(0.1, *(pace.time(frame.stamp_ns) for frame in frames))


@contextmanager
def _quick_switches() -> Iterator[None]:
    """Let no thread of ours wait 5 ms for another, which would be measured as latency."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(5e-4)
    try:
        yield
    finally:
        sys.setswitchinterval(before)


@contextmanager
def _terminated_as_interrupted() -> Iterator[None]:
    """Treat SIGTERM and a closed terminal as Ctrl-C, so that our processes are ended as well."""

    def interrupt(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    before = {each: signal.signal(each, interrupt) for each in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)


def _play(
    options: Options, bundle: Bundle, frames: list[Frame], rate: float, console: Console
) -> _Record:
    """Start both nodes, send them the frames, end them, and say what became of it all."""
    given = {'bundle': bundle.path.resolve()}
    # A machine that can show all this is fast enough to leave the tail nothing to do.
    chosen = {'policy': 'fixed', 'deadline_ms': DEADLINE_MS, 'seed': options.seed}
    head = Role('head', options.out, {**given, **chosen})
    tail = Role('tail', options.out, given)
    board = Board(console, len(frames))
    ros.init(args=[], signal_handler_options=ros.SignalHandlerOptions.NO)
    try:
        with _terminated_as_interrupted(), _spinning(board) as witness:
            head.start()
            tail.start()
            _wait_until_ready(witness, (head, tail), console)
            outage = Outage(tail, witness, board, len(frames), _duration(frames) / rate)
            board.title = f'bundle {bundle.name} · {witness.runtime}'
            witness.begin()
            board.tail = 'up'
            with board, Camera(witness, frames, rate) as camera:
                while camera.is_alive():
                    if not head.running:
                        raise DemoError(f'the head is gone:\n{head.last_words()}')
                    if options.kill:
                        outage.step()
                    time.sleep(0.01)
                counts = _drained(witness)
            shutdown, problems = {}, witness.ledger.problems(counts)
            if options.kill:
                problems += outage.problems()
            for role in (head, tail):
                status, shutdown[role.name] = role.end()
                if status != 0 or shutdown[role.name] > _SHUTDOWN_S:
                    problems.append(
                        f'{role.name} ended with status {status} after {shutdown[role.name]:.1f} '
                        f's, expected 0 within {_SHUTDOWN_S:g} s; see {role.log}'
                    )
            return _Record(
                witness.ledger.outcomes(),
                counts,
                outage.figures() if options.kill else None,
                shutdown,
                problems,
                witness.runtime,
            )
    finally:
        head.kill()
        tail.kill()
        ros.try_shutdown()


def _wait_until_ready(witness: Witness, roles: Sequence[Role], console: Console) -> None:
    """Until an image would be classified with the tail's help; raises DemoError."""
    end = time.monotonic() + _READY_S
    with console.status('starting head and tail, two processes'):
        while missing := witness.missing():
            for role in roles:
                if not role.running:
                    raise DemoError(f'the {role.name} did not start:\n{role.last_words()}')
            if time.monotonic() > end:
                raise DemoError(
                    f'after {_READY_S:g} s {missing}; see {", ".join(str(r.log) for r in roles)}'
                )
            time.sleep(0.02)


def _drained(witness: Witness) -> Counts:
    """The head's counts once all is answered, or whatever they are when that takes too long."""
    last = witness.now()
    end = last + _DRAIN_S
    while True:
        report = witness.head
        assert report is not None, 'it was ready, so it has reported'
        # One deadline after the last image, nothing is pending any more.
        settled = report.heard > last + 2 * DEADLINE_MS / 1e3
        if witness.now() > end or (
            settled and report.counts.accepted <= len(witness.ledger.answered)
        ):
            return report.counts
        time.sleep(0.02)
