# Copyright 2026 The sparse_split_ros authors
# SPDX-License-Identifier: Apache-2.0
"""What a user would do instead, side by side in one run.

    python benchmarks/rivals.py inference    engines, early exit against the full network, earlyon
    python benchmarks/rivals.py wire         bytes and round trip of a frame, or of its picture
    python benchmarks/rivals.py link         both over a slow and lossy link of two namespaces
    python benchmarks/rivals.py memory       resident memory and start-up of head and tail

inference: batch 1, one thread; all take turns in blocks of frames. ONNX Runtime, torch and earlyon
run the bundle's own ONNX models. The checkpoint with its torch modules is not shipped, so 'torch'
is the package's engine of that name, operator by operator in eager mode, and 'earlyon' (PyPI, left
out where it is not installed) is that package's EarlyExitWrapper around the same operators, exits,
temperatures and threshold: all of them give the same answers. The dense parent has random weights,
which do not change its time, and so no accuracy.

wire: what travels for one frame there and back between two nodes of this host. Float32MultiArray is
no message of this package: a CompressedImage as long in CDR stands for it. JPEG and PNG are of the
network's input, coded by OpenCV. The far side answers without running a network.

link: the veth pairs of outage.py, both ways shaped with tc tbf, and packets dropped by the
statistic match of iptables. It needs root, Linux, ip, tc and iptables, and is skipped without.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

sys.path[:0] = [str(Path(__file__).parents[1] / 'test'), str(Path(__file__).parents[1])]

import cv2
import numpy as np
from outage import HEAD, TAIL, network
from processes import Peer, Process, node, private_domain, ready, values_of
from throughput import Robots, feature_frames, paced

from sparse_split_ros.data.bags import Frame
from sparse_split_ros.data.drive import Drive, render_drive
from sparse_split_ros.data.gtsrb import FILE_NAME
from sparse_split_ros.data.sources import SourceError, open_source
from sparse_split_ros.embedded import messages as cdr
from sparse_split_ros.embedded.types import serialize
from sparse_split_ros.link.codec import Codec, codec_id
from sparse_split_ros.link.frame import FEATURE_FORMAT, FeatureFrame, ReplyFrame, Status
from sparse_split_ros.nodes import qos
from sparse_split_ros.nodes.messages import octets, wire_message
from sparse_split_ros.ros import Classification, CompressedImage, Header, TimeMsg
from sparse_split_ros.runtime.bundle import Bundle, bundle_path
from sparse_split_ros.runtime.engine import Engine, load_engine
from sparse_split_ros.runtime.preprocess import fit, normalise, prepare

Row = dict[str, Any]
Predict = Callable[[np.ndarray], 'int | None']

# Early exit against the full network in mean and median, and the accuracy that it may cost.
FASTER, POINTS = 1.7, 1.0
DEADLINE_MS, GRACE_MS = 100.0, 5.0
# A drive that no network was trained on.
DRIVE = Drive(seed=90001)
BLOCK = 25
WARM_UP_S = 3.0
QUALITY = 90
RATE_MBIT, LOSS = 2, 0.05
# One packet: more would let a frame of several pass at once.
BURST = '1600b'
LINKS = {'free': (False, False), 'slow': (True, False), 'lossy': (False, True),
         'both': (True, True)}  # fmt: skip
HEADS: dict[str, dict[str, Any]] = {
    'every frame asked': {'policy': 'fixed', 'threshold': 1.0},
    'fixed, 0.9': {'policy': 'fixed', 'threshold': 0.9},
    'joint': {'policy': 'joint'},
}
ENGINES = ('native', 'onnxruntime', 'torch')


def frames(data: str, count: int) -> list[Frame]:
    """So many labelled frames, evenly out of the GTSRB report tracks, else out of a drawn drive."""
    path = Path(data, FILE_NAME) if Path(data).is_dir() else Path(data)
    found = list(open_source(path, split='report') if data else render_drive(DRIVE))
    return [found[at] for at in np.linspace(0, len(found) - 1, min(count, len(found)), dtype=int)]


def inference(options: argparse.Namespace, bundle: Bundle) -> tuple[list[Row], bool]:
    """Latency and accuracy of every engine, whole and with early exit."""
    from engine import save

    from sparse_split_ros.networks.zoo import build

    pictures = frames(options.data, options.frames)
    inputs = [prepare(frame.image, bundle.input) for frame in pictures]
    labels = np.array([bundle.classes.index(str(frame.label)) for frame in pictures])
    calls: dict[tuple[str, str], Predict] = {}
    with tempfile.TemporaryDirectory() as directory:
        dense = build('compact', len(bundle.classes), widths=(64, 128, 256), stem=32)
        parent = load_engine(save(dense.eval(), Path(directory, 'dense')), 'onnxruntime')
    for name in ENGINES:
        engine = load_engine(bundle, name)
        calls[name, 'full'] = partial(_whole, engine, bundle)
        calls[name, 'early exit'] = partial(_routed, engine, bundle, options.threshold)
    if find_spec('earlyon') is not None:
        calls['earlyon', 'full'] = _earlyon(bundle, None)
        calls['earlyon', 'early exit'] = _earlyon(bundle, options.threshold)
    calls['onnxruntime, dense parent', 'full'] = partial(_whole, parent, parent.bundle)
    times: dict[tuple[str, str], list[float]] = {key: [] for key in calls}
    answers: dict[tuple[str, str], list[int | None]] = {key: [] for key in calls}
    for start in range(0, len(inputs), BLOCK):
        block = inputs[start : start + BLOCK]
        for key, call in calls.items():
            call(block[0])  # its weights come back into the caches
            for x in block:
                before = time.perf_counter()
                answers[key].append(call(x))
                times[key].append(1e3 * (time.perf_counter() - before))
    rows = []
    for (name, way), found in times.items():
        row: Row = {'engine': name, 'way': way, **_spread(found)}
        if 'parent' not in name:
            row['accuracy %'] = 100 * float((np.array(answers[name, way]) == labels).mean())
        for mark, cut in (('mean', np.mean), ('median', np.median)):
            if way == 'early exit':
                row[f'× full, {mark}'] = float(cut(times[name, 'full']) / cut(found))
            row[f'native faster, {mark}'] = float(cut(found) / cut(times['native', way]))
        rows.append(row)
    source = 'GTSRB report tracks' if options.data else 'a drawn drive'
    print(f'{len(pictures)} frames of {source}, threshold {options.threshold:g} at every exit')
    whole, early = rows[:2]
    met = min(early['× full, mean'], early['× full, median']) >= FASTER
    met &= whole['accuracy %'] - early['accuracy %'] <= POINTS
    return rows, met


def _whole(engine: Engine, bundle: Bundle, x: np.ndarray) -> int:
    asked = [None] * bundle.final + [0.0]
    found = engine.run(x, 0, bundle.final, asked, stop=False)
    return int(found.exits[bundle.final].argmax())


def _routed(engine: Engine, bundle: Bundle, threshold: float, x: np.ndarray) -> int:
    asked = [threshold] * bundle.final + [0.0]
    found = engine.run(x, 0, bundle.final, asked)
    return int(found.exits[max(found.exits)].argmax())


def _earlyon(bundle: Bundle, threshold: float | None) -> Predict:
    """The bundle's models as operators of torch inside earlyon; None leaves its exits out."""
    import torch
    from earlyon import EarlyExitConfig, EarlyExitWrapper, ExitPoint
    from torch import nn

    # The engine's own operators, but between its tensors: earlyon takes modules.
    from sparse_split_ros.networks.torch_engine import _Graph

    class Part(nn.Module):
        def __init__(self, model: str) -> None:
            super().__init__()
            self.graph = _Graph(model, bundle.read(model), torch.device('cpu'))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.graph(x)

    *early, last = bundle.exits
    points = [
        ExitPoint(f'exit_{item.stage}', str(item.stage), bundle.stages[item.stage].output_shape[0])
        for item in early
    ]
    temperatures = {point.name: item.temperatures[0] for point, item in zip(points, early)}
    config = EarlyExitConfig(
        'custom', len(bundle.classes), points,
        confidence_thresholds=[threshold or 1.0] * len(points),
        enabled_exits=[threshold is not None] * len(points),
        temperatures={**temperatures, 'final': last.temperatures[0]},
    )  # fmt: skip
    backbone = nn.Sequential(*(Part(stage.model) for stage in bundle.stages), Part(last.model))
    heads = {point.name: Part(item.model) for point, item in zip(points, early)}
    wrapper = EarlyExitWrapper(
        backbone.eval(), heads, lambda x: x, config, input_shape=(1, *bundle.input.shape)
    ).eval()
    return lambda x: int(wrapper(torch.from_numpy(x)).prediction.argmax())


class Way:
    """One way to bring a frame to the tail: to bytes and back, and how long that takes."""

    def __init__(
        self, format_: str, encode: Callable[[], bytes], decode: Callable[[bytes], Any]
    ) -> None:
        self.format = format_
        before = time.perf_counter()
        self.data = encode()
        between = time.perf_counter()
        decode(self.data)
        self.code_ms = 1e3 * (between - before)
        self.decode_ms = 1e3 * (time.perf_counter() - between)

    def cdr_bytes(self) -> int:
        """What it is as a CompressedImage from the camera 'camera'."""
        header, data = cdr.Header(frame_id='camera'), octets(self.data)
        return len(serialize(cdr.CompressedImage(header=header, format=self.format, data=data)))


def ways(bundle: Bundle, engine: Engine, image: np.ndarray) -> dict[str, Way]:
    """Ours first. The head's stages have run already; its encoder counts as coding."""
    split = bundle.split_at(bundle.defaults.split)
    name = bundle.defaults.codec
    codec = Codec.from_calibration(name, split.shape, split.codecs[name])
    seen = fit(image, bundle.input)
    nothing: list[float | None] = [None] * len(bundle.stages)
    found = engine.run(normalise(seen, bundle.input), 0, split.stage, nothing, stop=False)
    assert found.features is not None
    features = found.features

    def ours() -> bytes:
        payload = codec.encode(engine.encode(features, split.stage))
        return FeatureFrame(
            split=split.stage, codec=codec_id(name), fingerprint=bundle.fingerprint, session=1,
            sequence=1, payload=payload,
        ).to_bytes()  # fmt: skip

    def theirs(data: bytes) -> np.ndarray:
        return engine.decode(codec.decode(FeatureFrame.parse(data).payload), split.stage)

    def picture(suffix: str, *setting: int) -> Way:
        def encode() -> bytes:
            return cv2.imencode(suffix, seen[..., ::-1], setting)[1].tobytes()

        return Way(suffix[1:], encode, lambda data: cv2.imdecode(np.frombuffer(data, np.uint8), 1))

    # A Float32MultiArray is its floats behind 16 bytes of CDR: encapsulation, an empty list of
    # dimensions, the offset and the length. A CompressedImage starts with more.
    size = 16 + features.nbytes - Way('32FC1', lambda: b'', len).cdr_bytes()
    return {
        'features, ours': Way(FEATURE_FORMAT, ours, theirs),
        'Float32MultiArray': Way(
            '32FC1',
            lambda: features.tobytes()[:size],
            lambda data: np.frombuffer(data, np.uint8).view(np.float32),
        ),
        f'JPEG, quality {QUALITY}': picture('.jpg', cv2.IMWRITE_JPEG_QUALITY, QUALITY),
        'PNG': picture('.png'),
    }


class Echo:
    """The near side of an echo: sends under a number and notes when what came back."""

    def __init__(self, peer: Peer) -> None:
        self.sent: dict[int, float] = {}
        self.trips: dict[int, float] = {}
        self._peer = peer
        self._ping = peer.node.create_publisher(CompressedImage, 'ping', qos.WIRE)
        peer.listen(CompressedImage, 'pong', self._heard, qos.WIRE)

    def send(self, number: int, way: Way) -> None:
        """One message; the stamp carries its number."""
        self.sent[number] = time.perf_counter()
        sec, nanosec = _stamp(number)
        header = Header(stamp=TimeMsg(sec=sec, nanosec=nanosec), frame_id='camera')
        self._ping.publish(wire_message(way.data, header, way.format))

    def ask(self, number: int, way: Way, seconds: float = 1.0) -> bool:
        """Send and wait for its echo; whether it came."""
        self.send(number, way)
        return self._peer.wait(lambda: number in self.trips, seconds)

    def connect(self, way: Way) -> None:
        """Ask until there is an echo."""
        assert any(self.ask(-1 - number, way, 0.1) for number in range(200)), 'no echo'

    def _heard(self, message: Any) -> None:
        number = _number(message)
        self.trips[number] = 1e3 * (time.perf_counter() - self.sent[number])


def far(bundle: Bundle) -> None:
    """The other process of the echo, until it is killed: answers as long as the tail's."""
    scores = np.zeros(len(bundle.classes), np.float32)
    reply = ReplyFrame(Status.OK, bundle.fingerprint, 1, 1, scores).to_bytes()
    peer = Peer('echo')
    pong = peer.node.create_publisher(CompressedImage, 'pong', qos.WIRE)
    answer = partial(wire_message, reply, format_='sparse_split_reply/1')
    peer.listen(CompressedImage, 'ping', lambda msg: pong.publish(answer(msg.header)), qos.WIRE)
    print('echo ready', flush=True)
    threading.Event().wait()


def echo_process(prefix: tuple[str, ...] = ()) -> Process:
    """Start the far side."""
    return Process(str(Path(__file__).resolve()), 'far', prefix=prefix)


def wire(options: argparse.Namespace, bundle: Bundle) -> tuple[list[Row], bool]:
    """Bytes, coding and round trip of each way; every frame goes each of them in turn."""
    engine = load_engine(bundle)
    coded = [ways(bundle, engine, f.image) for f in frames(options.data, options.frames)]
    with private_domain(), echo_process() as other, Peer() as peer:
        other.wait_for('echo ready')
        echo = Echo(peer)
        echo.connect(next(iter(coded[0].values())))
        numbers: dict[str, list[int]] = {name: [] for name in coded[0]}
        count = itertools.count()
        pace = paced(options.rate, len(coded) / options.rate + 1.0)
        for found, turn in zip(coded, pace):
            order = [*found][turn % len(found) :] + [*found][: turn % len(found)]
            for name in order:  # the first after a pause is slower, so each is first in turn
                number = next(count)
                if echo.ask(number, found[name]):
                    numbers[name].append(number)
    rows = []
    for name, came in numbers.items():
        chosen = [found[name] for found in coded]
        trips = [echo.trips[number] for number in came]
        row: Row = {
            'way': name,
            'bytes': float(np.mean([len(way.data) for way in chosen])),
            'CDR bytes': float(np.mean([way.cdr_bytes() for way in chosen])),
            'to bytes ms': float(np.median([way.code_ms for way in chosen])),
            'from bytes ms': float(np.median([way.decode_ms for way in chosen])),
            **_spread(trips), 'lost %': 100 * (1 - len(came) / len(chosen)),
        }  # fmt: skip
        ours = rows[0] if rows else row
        row['× bytes'] = row['CDR bytes'] / ours['CDR bytes']
        row['× round trip'] = row['median'] / ours['median']
        rows.append(row)
    return rows, True


def link(options: argparse.Namespace, bundle: Bundle) -> tuple[list[Row], bool]:
    """Heads with a tail, and echoes of the other ways, over each link between two namespaces."""
    if options.inside:
        rows = _inside(options, bundle)
        options.inside.write_text(json.dumps(rows))
        return rows, True
    tools = [tool for tool in ('ip', 'tc', 'iptables') if shutil.which(tool) is None]
    if sys.platform != 'linux' or os.geteuid() or tools:
        print(f'link skipped: it needs root, Linux and {", ".join(tools) or "its tools"}')
        return [], True
    rows = []
    for name in options.links:
        with network(), tempfile.TemporaryDirectory() as directory:
            _shape(*LINKS[name])
            result = Path(directory) / 'rows.json'
            words = ['--data', options.data, '--inside', result, '--seconds', options.seconds]
            command = ['ip', 'netns', 'exec', HEAD, sys.executable, Path(__file__).resolve()]
            words += ['--bundle', bundle.path, '--rate', options.rate]
            whole = [*map(str, command), 'link', *map(str, words)]
            subprocess.run(whole, check=True, stdout=subprocess.DEVNULL)
            rows += [{'link': name, **row} for row in json.loads(result.read_text())]
    return rows, True


def _shape(slow: bool, lossy: bool) -> None:
    """Both ends of the link between the namespaces: what leaves is shaped, what comes is lost."""
    for name, other in ((HEAD, '10.99.0.2'), (TAIL, '10.99.0.1')):
        words: list[tuple[str, ...]] = []
        if slow:
            shape = ('rate', f'{RATE_MBIT}mbit', 'burst', BURST, 'latency', '100ms')
            words.append(('tc', 'qdisc', 'add', 'dev', 'wire', 'root', 'tbf', *shape))
        if lossy:
            # Before fragments are put together, so that each packet has its own chance; only what
            # comes from the other side, for a multicast of this side is looped back on the wire.
            chance = ('-m', 'statistic', '--mode', 'random', '--probability', str(LOSS))
            table = ('iptables', '-t', 'raw', '-A', 'PREROUTING', '-s', other)
            words.append((*table, *chance, '-j', 'DROP'))
        for command in words:
            subprocess.run(['ip', 'netns', 'exec', name, *command], check=True)


def _inside(options: argparse.Namespace, bundle: Bundle) -> list[Row]:
    os.environ.update(ROS_DOMAIN_ID='7', ROS_AUTOMATIC_DISCOVERY_RANGE='SUBNET')
    os.environ.pop('ROS_LOCALHOST_ONLY', None)
    prefix = ('ip', 'netns', 'exec', TAIL)
    images = [frame.image for frame in frames(options.data, 500)]
    rows = [
        {'way': name, **_flown(options, bundle, images, prefix, settings)}
        for name, settings in HEADS.items()
    ]
    engine = load_engine(bundle)
    coded = [ways(bundle, engine, image) for image in images[:100]]
    for name in coded[0]:
        with echo_process(prefix) as other, Peer() as peer:
            other.wait_for('echo ready')
            echo = Echo(peer)
            echo.connect(coded[0]['features, ours'])
            count = 0
            for number in paced(options.rate, options.seconds):
                echo.send(number, coded[number % len(coded)][name])
                count += 1
            peer.pause(2 * DEADLINE_MS / 1e3)
            trips = [trip for number, trip in echo.trips.items() if number >= 0]
        rows.append({'way': f'echo: {name}', **_scored(trips, count)})
    return rows


def _flown(
    options: argparse.Namespace,
    bundle: Bundle,
    images: Sequence[np.ndarray],
    prefix: tuple[str, ...],
    settings: Mapping[str, Any],
) -> Row:
    """One head on this side, its tail on the other, and a camera beside the head."""
    sent: dict[int, float] = {}
    came: dict[int, float] = {}

    def answered(message: Any) -> None:
        if (number := _number(message)) in sent:
            came[number] = 1e3 * (time.perf_counter() - sent[number])

    with (
        Peer() as peer,
        node('head', bundle=bundle.path, deadline_ms=DEADLINE_MS, **settings) as head,
        node('tail', prefix=prefix, bundle=bundle.path) as tail,
    ):
        ready(head)
        ready(tail)
        peer.listen(Classification, 'classification', answered)
        peer.warm_up(images=images)
        first = int(WARM_UP_S * options.rate)
        for number in paced(options.rate, WARM_UP_S + options.seconds):
            sent[number] = time.perf_counter()
            peer.send(images[number % len(images)], _stamp(number))
        total = len(sent) - first
        peer.wait(lambda: len(came) == len(sent), 2 * DEADLINE_MS / 1e3)
        decisions = {_number(message): values_of(message) for message in list(peer.decisions)}
    counted = [each for number, each in decisions.items() if number >= first]
    offboard = [each for each in counted if each['route'] == 'offboard']
    row = _scored([trip for number, trip in came.items() if number >= first], total)
    return row | {'by the tail %': 100 * len(offboard) / total}


def _scored(trips: Sequence[float], asked: int) -> Row:
    """Latency of what came, and how much of what was asked came in time."""
    hits = sum(trip <= DEADLINE_MS + GRACE_MS for trip in trips)
    row = _spread(trips) if trips else {}
    return {**row, 'answered %': 100 * len(trips) / asked, 'in time %': 100 * hits / asked}


def memory(options: argparse.Namespace, bundle: Bundle) -> tuple[list[Row], bool]:
    """From the start of a process to its first answer, and its memory after a second's work."""
    images = [frame.image for frame in frames('', 30)]
    payloads = feature_frames(bundle, images)
    found: dict[tuple[str, str], list[tuple[float, ...]]] = {}
    for _ in range(options.rounds):
        for engine in ENGINES:
            with private_domain(), Peer() as peer:

                def see(number: int, peer: Peer = peer) -> None:
                    peer.send(images[number % len(images)], _stamp(number))

                start = partial(node, 'head', bundle=bundle.path, engine=engine, policy='fixed')
                row = _started(start, see, peer.classifications, peer)
                found.setdefault(('head', engine), []).append(row)
            with private_domain(), Peer() as peer:
                robots = Robots(peer, bundle, ['r1'])

                def ask(number: int, robots: Robots = robots) -> None:
                    robots.send(0, number, payloads[number % len(payloads)])

                start = partial(node, 'tail', bundle=bundle.path, engine=engine, robots='[r1]')
                row = _started(start, ask, robots.trips, peer)
                found.setdefault(('tail', engine), []).append(row)
    rows = []
    for (name, engine), samples in sorted(found.items()):
        start, resident, own = np.median(samples, axis=0).tolist()
        row = {'node': name, 'engine': engine, 'first answer ms': start, 'resident MiB': resident,
               'own MiB': own}  # fmt: skip
        native = np.median(found[name, 'native'], axis=0).tolist()
        row |= {'× start': start / native[0], '× resident': resident / native[1]}
        rows.append(row)
    return rows, True


def _started(
    start: Callable[[], Process], ask: Callable[[int], None], answers: Sequence[Any], peer: Peer
) -> tuple[float, float, float]:
    """Milliseconds to the first answer, then resident and own memory in MiB."""
    import psutil

    before = time.perf_counter()
    with start() as process:
        for number in itertools.count():
            ask(number)
            if peer.wait(lambda: answers, 0.01):
                break
            assert number < 3000, f'no answer:\n{process.output}'
        first = 1e3 * (time.perf_counter() - before)
        for later in paced(100.0, 1.0):
            ask(number + 1 + later)
        info = psutil.Process(process.popen.pid).memory_full_info()
    return first, info.rss / 2**20, info.uss / 2**20


def _spread(times: Sequence[float]) -> dict[str, float]:
    """Mean, median and p95 in ms."""
    middle, high = np.quantile(times, (0.5, 0.95))
    return {'mean': float(np.mean(times)), 'median': float(middle), 'p95': float(high)}


def _stamp(number: int) -> tuple[int, int]:
    return 1000 + number // 1000, number % 1000


def _number(message: Any) -> int:
    stamp = message.header.stamp
    return (stamp.sec - 1000) * 1000 + stamp.nanosec


def show(rows: Sequence[Row]) -> None:
    """Print a table that Markdown understands."""
    columns = list(dict.fromkeys(key for row in rows for key in row))
    print('| ' + ' | '.join(columns) + ' |\n|' + ' --- |' * len(columns))
    for row in rows:
        cells = [row.get(key, '') for key in columns]
        texts = [_shown(cell) if isinstance(cell, float) else str(cell) for cell in cells]
        print('| ' + ' | '.join(texts) + ' |')


def _shown(value: float) -> str:
    return f'{value:.3g}' if abs(value) < 10 else f'{value:.1f}'


def main() -> int:
    """Measure one part, print its table, and say whether the marks are met."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument('--bundle', default='gtsrb32')
    common.add_argument('--json', type=Path, help='where to write the figures')
    common.add_argument(
        '--data', default=os.environ.get('SPARSE_SPLIT_DATA', ''), help='the packed GTSRB, or the '
        'folder it is in (SPARSE_SPLIT_DATA); a drawn drive without',
    )  # fmt: skip
    parts = parser.add_subparsers(dest='part', required=True, metavar='PART')

    def part(name: str, run: Callable[..., tuple[list[Row], bool]]) -> argparse.ArgumentParser:
        words = (run.__doc__ or '').split('\n')[0]
        made = parts.add_parser(name, parents=[common], help=words, description=words)
        made.set_defaults(run=run)
        return made

    made = part('inference', inference)
    made.add_argument('--frames', type=int, default=1000)
    made.add_argument('--threshold', type=float, default=0.9, help='of every exit (%(default)g)')
    made = part('wire', wire)
    made.add_argument('--frames', type=int, default=1000)
    made.add_argument('--rate', type=float, default=60.0, help='frames a second, all ways each')
    made = part('link', link)
    made.add_argument('--links', nargs='+', choices=LINKS, default=list(LINKS))
    made.add_argument('--seconds', type=float, default=10.0, help='per way (%(default)g)')
    made.add_argument('--rate', type=float, default=30.0, help='frames a second (%(default)g)')
    made.add_argument('--inside', type=Path, help=argparse.SUPPRESS)
    made = part('memory', memory)
    made.add_argument('--rounds', type=int, default=3)
    parts.add_parser('far', parents=[common])
    options = parser.parse_args()
    bundle = Bundle.load(bundle_path(options.bundle))
    if options.part == 'far':
        far(bundle)
    load = os.getloadavg()[0]
    try:
        rows, met = options.run(options, bundle)
    except SourceError as error:
        parser.error(str(error))
    print(f'{options.part}, bundle {bundle.fingerprint.hex()}, load average {load:.2f}')
    show(rows)
    if options.part == 'inference':
        print(f'early exit of native: at least {FASTER:g} times as fast in mean and median at no '
              f'more than {POINTS:g} point: {"met" if met else "missed"}')  # fmt: skip
    if options.json:
        found = {'part': options.part, 'bundle': bundle.fingerprint.hex(), 'rows': rows}
        options.json.write_text(json.dumps(found, indent=1, ensure_ascii=False) + '\n')
    return 0 if met else 1


if __name__ == '__main__':
    raise SystemExit(main())
