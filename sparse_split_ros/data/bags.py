# Copyright 2026 The sparse_split_ros authors
# SPDX-License-Identifier: Apache-2.0
"""ROS 2 bags without ROS: reading any camera bag frame by frame, and writing labelled ones."""

from __future__ import annotations

import contextlib
import functools
import math
import os
import re
import shutil
import sqlite3
import struct
import sys
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar

import apsw
import numpy as np
import numpy.typing as npt
from rosbags.interfaces import (
    Connection,
    Qos,
    QosDurability,
    QosHistory,
    QosLiveliness,
    QosReliability,
    QosTime,
)
from rosbags.rosbag2 import (
    CompressionFormat,
    CompressionMode,
    Reader,
    ReaderError,
    StoragePlugin,
    Writer,
    WriterError,
)
from rosbags.serde import SerdeError

from sparse_split_ros.data import weather
from sparse_split_ros.data.files import is_hidden
from sparse_split_ros.data.images import ImageError, decode_compressed, decode_image
from sparse_split_ros.data.pace import Pace
from sparse_split_ros.embedded.types import typestore

if sys.version_info >= (3, 14):
    from compression.zstd import ZstdError
else:
    from backports.zstd import ZstdError

IMAGE = 'sensor_msgs/msg/Image'
COMPRESSED = 'sensor_msgs/msg/CompressedImage'
CLASSIFICATION = 'vision_msgs/msg/Classification'
_IMAGES = (IMAGE, COMPRESSED)

_STORAGE = ('.mcap', '.db3')
BAG_SUFFIXES = frozenset((*_STORAGE, '.bag'))
# The metadata that are written: rosbag2 of Humble takes no newer ones, that of Jazzy takes these.
_VERSION: Literal[8] = 8

# What rosbags lets through for damaged files, beside its own error.
_DAMAGE = (
    ReaderError,
    OSError,
    EOFError,
    TypeError,
    ValueError,
    KeyError,
    IndexError,
    AttributeError,
    AssertionError,
    RuntimeError,
    MemoryError,
    OverflowError,
    struct.error,
    ZstdError,
    sqlite3.Error,
    apsw.Error,
)

# rosbags hands SQLite the path as a URI and does not quote it: these mean something else there.
_NOT_IN_URI = re.compile('[#?]|%[0-9A-Fa-f]{2}')

Progress = Callable[[int], None]
_T = TypeVar('_T')


class BagError(Exception):
    """A bag cannot be read or written; the message names the bag and what is wrong with it."""


@dataclass(frozen=True)
class Frame:
    """One image of a stream with what is known about it.

    `image` is (H, W, 3) uint8 RGB, or (H, W) uint8 when a source gives grey images. `stamp_ns` is
    the header's stamp. `severity` of `scene` is in [0, 1]. `others` are the labels of further
    tasks, by their names. `file` names what an image was alone in, with what cannot be printed
    escaped. `error` says why an image cannot be decoded, which then has no pixels.
    """

    stamp_ns: int
    frame_id: str
    image: npt.NDArray[np.uint8]
    label: str | None = None
    scene: str | None = None
    severity: float = 0.0
    others: Mapping[str, str] = field(default_factory=dict)
    file: str = ''
    error: str = ''

    @property
    def truths(self) -> dict[str, str]:
        """The labels of further tasks, by name; where none says the weather, the scene does."""
        return further_truths(self.scene, self.others)


def further_truths(scene: str | None, others: Mapping[str, str]) -> dict[str, str]:
    """What is known of further tasks of an image in a `scene`; see `Frame.truths`."""
    return ({} if scene is None else {weather.TASK: scene}) | {**others}


def is_bag(path: Path) -> bool:
    """Whether a path is a storage file, or the folder of a bag, be its recording cut off."""
    if path.is_dir():
        try:
            return any(
                each.name == 'metadata.yaml' or (each.suffix in _STORAGE and each.is_file())
                for each in path.iterdir()
                if not is_hidden(each)
            )
        except PermissionError:
            return False
    return path.suffix.lower() in BAG_SUFFIXES


def bags_in(folder: Path) -> list[Path]:
    """The bags that a folder holds, in the order of their names."""
    return sorted(path for path in folder.iterdir() if not is_hidden(path) and is_bag(path))


def read_bag(path: str | os.PathLike[str], image_topic: str | None = None) -> Iterator[Frame]:
    """Read the frames of a rosbag2 directory, or of one of its .mcap or .db3 files, in order.

    `image_topic` may be left out where the bag holds one image topic, or one named `image`. The
    label and the scene are those classifications on `ground_truth` and `scene`, beside the image
    topic or at the root, whose header has the image's stamp; they may not say different things at
    one stamp. Labels of further tasks are on `ground_truth/NAME`. Images are decoded one at a time;
    of a bag whose files are compressed, rosbags keeps a decompressed copy on disk meanwhile. One
    that cannot be decoded is a frame with an `error`, and costs none of the others.

    Raises BagError, at the first frame or where the damage is, when the bag is unreadable or
    truncated, holds no images, lacks the topic, or labels or scenes contradict each other.
    """
    bag = Path(path)
    with contextlib.closing(_open(bag)) as reader:
        connections = list(reader.connections)
        images = _image_connections(bag, connections, image_topic)
        topic = images[0].topic
        # Two passes, as the order of the messages of one stamp is not given: the labels are few
        # bytes, and the images stream.
        labels = _labels(bag, reader, connections, topic, 'ground_truth')
        others = {
            name: _labels(bag, reader, connections, topic, f'ground_truth/{name}')
            for name in _further_tasks(connections)
        }
        surroundings = _classified(bag, reader, _beside(connections, topic, 'scene'))
        scenes = _by_stamp(bag, 'scene', surroundings)
        count = 0
        for connection, raw in _messages(bag, reader, images):
            message = _deserialize(bag, connection, raw)
            stamp = _stamp(message)
            name, severity = scenes.get(stamp, (None, 0.0))
            image, error = _decode(bag, connection, message)
            count += 1
            known = {task: said[stamp] for task, said in others.items() if stamp in said}
            yield Frame(
                stamp, message.header.frame_id, image, labels.get(stamp), name, severity, known,
                error=error,
            )  # fmt: skip
        if count == 0:
            raise BagError(f"bag {bag}: topic '{topic}' holds no images")
        expected = sum(connection.msgcount for connection in images)
        if count < expected:
            raise BagError(f"bag {bag} is truncated: '{topic}' gave {count} of {expected} images")


def image_topics(path: str | os.PathLike[str]) -> list[str]:
    """The topics of a bag that :func:`read_bag` can read, by name. Raises BagError."""
    with contextlib.closing(_open(Path(path))) as reader:
        return sorted({each.topic for each in reader.connections if each.msgtype in _IMAGES})


def count_images(path: str | os.PathLike[str], image_topic: str | None = None) -> int:
    """How many frames :func:`read_bag` will find if nothing is damaged. Raises BagError."""
    bag = Path(path)
    with contextlib.closing(_open(bag)) as reader:
        images = _image_connections(bag, list(reader.connections), image_topic)
        return sum(connection.msgcount for connection in images)


def write_bag(
    path: str | os.PathLike[str],
    frames: Iterable[Frame],
    storage: Literal['mcap', 'sqlite3'] = 'mcap',
    progress: Progress | None = None,
    compression: Literal['none', 'file', 'message'] = 'none',
) -> int:
    """Write `/image`, `/ground_truth` and `/scene`; returns the number of frames.

    Labels of further tasks are written to `/ground_truth/NAME`.

    The bag appears under its name when it is complete, and not at all if anything fails.
    `progress(frames written)` is called after each. Raises BagError when `path` exists or is none
    that SQLite takes, storage or compression is unknown, there are no frames, one is not an image,
    or the disk refuses.
    """
    bag = Path(path)
    plugins = {'mcap': StoragePlugin.MCAP, 'sqlite3': StoragePlugin.SQLITE3}
    modes = {
        'none': CompressionMode.NONE,
        'file': CompressionMode.FILE,
        'message': CompressionMode.MESSAGE,
    }
    if storage not in plugins:
        raise BagError(f"unknown storage '{storage}': expected {' or '.join(plugins)}")
    if compression not in modes:
        raise BagError(f"unknown compression '{compression}': expected {', '.join(modes)}")
    if bag.exists():
        raise BagError(f'bag {bag} exists already: remove it or choose another name')
    if storage == 'sqlite3':
        _check_uri(bag, bag)
    workshop = bag.parent / f'.{bag.name}.{uuid.uuid4().hex[:8]}.part'
    try:
        workshop.mkdir(parents=True)
        writer = Writer(workshop / bag.name, version=_VERSION, storage_plugin=plugins[storage])
        writer.set_compression(modes[compression], CompressionFormat.ZSTD)
        with writer:
            count = _write(writer, frames, progress)
        if count == 0:
            raise BagError(f'bag {bag}: there are no frames to write')
        os.replace(workshop / bag.name, bag)
    except (OSError, WriterError, sqlite3.Error, apsw.Error) as error:
        raise BagError(f'bag {bag} cannot be written: {error}') from error
    finally:
        shutil.rmtree(workshop, ignore_errors=True)
    return count


def read_messages(
    path: str | os.PathLike[str], kinds: Sequence[str]
) -> Iterator[tuple[str, str, int, Any]]:
    """Topic, type, time of receipt in ns and message of all messages of some types, in order.

    Raises BagError for an unreadable or damaged bag.
    """
    bag = Path(path)
    with contextlib.closing(_open(bag)) as reader:
        wanted = [each for each in reader.connections if each.msgtype in kinds]
        if not wanted:  # to rosbags, no connections are all of them
            return
        try:
            for connection, received, raw in reader.messages(wanted):
                message = _deserialize(bag, connection, raw)
                yield connection.topic, connection.msgtype, received, message
        except _DAMAGE as error:
            raise BagError(f'bag {bag} is damaged or truncated: {_reason(error)}') from error


class Recording:
    """A bag that grows while messages come; a context manager. Not safe for threads."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.count = 0
        self._bag = Path(path)
        self._channels: dict[tuple[str, str], Connection] = {}
        if self._bag.exists():
            raise BagError(f'bag {self._bag} exists already: remove it or choose another name')
        try:
            self._writer = Writer(self._bag, version=_VERSION, storage_plugin=StoragePlugin.MCAP)
            self._writer.open()
        except (OSError, WriterError) as error:
            raise BagError(f'bag {self._bag} cannot be written: {error}') from error

    def write(self, topic: str, kind: str, received_ns: int, cdr: bytes) -> None:
        """Add one serialised message of the type ``kind``. Raises BagError."""
        try:
            if (topic, kind) not in self._channels:
                self._channels[topic, kind] = self._writer.add_connection(
                    topic, kind, typestore=typestore(), offered_qos_profiles=[_qos()]
                )
            self._writer.write(self._channels[topic, kind], received_ns, cdr)
        except (OSError, WriterError) as error:
            raise self._unwritten(error) from error
        self.count += 1

    def close(self) -> None:
        """Complete the bag. Raises BagError, for a full disk as well."""
        try:
            self._writer.close()
        except (OSError, WriterError) as error:
            raise self._unwritten(error) from error

    def _unwritten(self, error: Exception) -> BagError:
        saved = _how_to_recover(self._bag / f'{self._bag.name}.mcap')
        return BagError(f'bag {self._bag} cannot be written: {_reason(error)}; {saved}')

    def __enter__(self) -> Recording:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _open(bag: Path) -> Reader:
    if not bag.exists():
        raise BagError(f'bag {bag} does not exist')
    if bag.suffix == '.bag':
        raise BagError(f'bag {bag} is of ROS 1: convert it with rosbags-convert')
    if bag.is_dir() and not (bag / 'metadata.yaml').exists():
        cut = min(bag.glob('*.mcap'), default=None)
        saved = '' if cut is None else f'; {_how_to_recover(cut)}'
        raise BagError(
            f'bag {bag} has no metadata.yaml: not a bag, or its recording was cut off{saved}'
        )
    for file in [bag] if bag.suffix == '.db3' else bag.glob('*.db3'):
        _check_uri(bag, file)
    try:
        reader = Reader(bag)
        reader.open()
    except _DAMAGE as error:
        saved = f'; {_how_to_recover(bag)}' if bag.suffix == '.mcap' else ''
        raise BagError(f'bag {bag} is not readable: {_reason(error)}{saved}') from error
    for topic, kind, count in ((c.topic, c.msgtype, c.msgcount) for c in reader.connections):
        if not (isinstance(topic, str) and isinstance(kind, str) and isinstance(count, int)):
            reader.close()
            raise BagError(
                f'bag {bag} is not readable: its metadata.yaml has a topic {topic!r} of type '
                f'{kind!r} with {count!r} messages, expected two names and a number'
            )
    return reader


def _how_to_recover(storage: Path) -> str:
    """What to do with an .mcap file that lacks its end."""
    return f'`mcap recover {storage} -o saved.mcap` saves what is whole of it'


def _check_uri(bag: Path, file: Path) -> None:
    if found := _NOT_IN_URI.search(str(file)):
        raise BagError(
            f"bag {bag}: the path of a sqlite3 bag cannot hold '{found[0]}': rename it, or use mcap"
        )


def _reason(error: BaseException) -> str:
    return ' '.join(str(error).split()) or type(error).__name__


def _image_connections(
    bag: Path, connections: Sequence[Connection], wanted: str | None
) -> list[Connection]:
    """The connections of the one image topic to read; a topic may have several publishers."""
    every = {connection.topic: connection.msgtype for connection in connections}
    images = sorted(topic for topic, kind in every.items() if kind in _IMAGES)
    listing = ', '.join(f'{topic} ({kind})' for topic, kind in sorted(every.items())) or 'none'
    if wanted is not None:
        chosen = next((topic for topic in images if topic.strip('/') == wanted.strip('/')), None)
        if chosen is None:
            raise BagError(f"bag {bag} has no image topic '{wanted}'; its topics are: {listing}")
    elif not images:
        raise BagError(f'bag {bag} has no image topic; its topics are: {listing}')
    elif len(images) == 1:
        chosen = images[0]
    else:
        named = [topic for topic in images if topic in ('/image', '/image/compressed')]
        if not named:
            raise BagError(f'bag {bag} has several image topics, name one of: {", ".join(images)}')
        chosen = named[0]
    return [
        connection
        for connection in connections
        if connection.topic == chosen and connection.msgtype == every[chosen]
    ]


def _further_tasks(connections: Sequence[Connection]) -> list[str]:
    """The names of the tasks beside the first whose truth a bag holds."""
    topics = (each.topic.split('/') for each in connections if each.msgtype == CLASSIFICATION)
    return sorted({parts[-1] for parts in topics if parts[-2:-1] == ['ground_truth']})


def _labels(
    bag: Path, reader: Reader, connections: Sequence[Connection], image_topic: str, name: str
) -> dict[int, str]:
    """The labels called `name` beside an image topic, by their stamp."""
    truths = _classified(bag, reader, _beside(connections, image_topic, name))
    return _by_stamp(bag, name, ((stamp, label) for stamp, (label, _) in truths))


def _beside(connections: Sequence[Connection], image_topic: str, name: str) -> list[Connection]:
    """The classifications called `name` in the image topic's namespace, or else at the root."""
    namespace = image_topic.removesuffix('/compressed').rpartition('/')[0]
    for topic in (f'{namespace}/{name}', f'/{name}'):
        if found := [c for c in connections if (c.topic, c.msgtype) == (topic, CLASSIFICATION)]:
            return found
    return []


def _messages(
    bag: Path, reader: Reader, connections: list[Connection]
) -> Iterator[tuple[Connection, bytes]]:
    try:
        for connection, _, raw in reader.messages(connections):
            yield connection, raw
    except _DAMAGE as error:
        raise BagError(f'bag {bag} is damaged or truncated: {_reason(error)}') from error


def _deserialize(bag: Path, connection: Connection, raw: bytes) -> Any:
    # Our own definitions serve every bag: those of Humble carry none, and these types are the same
    # in all distributions.
    try:
        return typestore().deserialize_cdr(raw, connection.msgtype)
    except (SerdeError, struct.error, ValueError, IndexError, MemoryError) as error:
        raise BagError(
            f"bag {bag}: a message of '{connection.topic}' is not a {connection.msgtype}: "
            f'{_reason(error)}'
        ) from error


def _classified(
    bag: Path, reader: Reader, connections: list[Connection]
) -> Iterator[tuple[int, tuple[str, float]]]:
    if not connections:  # to rosbags, no connections are all of them
        return
    for connection, raw in _messages(bag, reader, connections):
        message = _deserialize(bag, connection, raw)
        if message.results:
            # Hypotheses come in any order.
            best = max(message.results, key=lambda each: _severity(each.score))
            yield _stamp(message), (best.class_id, _severity(best.score))


def _severity(score: float) -> float:
    return min(1.0, max(0.0, float(score))) if math.isfinite(score) else 0.0


def _by_stamp(bag: Path, topic: str, said: Iterable[tuple[int, _T]]) -> dict[int, _T]:
    found: dict[int, _T] = {}
    for stamp, what in said:
        if found.setdefault(stamp, what) != what:
            raise BagError(
                f"bag {bag}: '{topic}' says both {found[stamp]!r} and {what!r} at the stamp "
                f'{stamp} ns, which leaves open what belongs to which image: record with a stamp '
                f"for every image, or without '{topic}'"
            )
    return found


def _stamp(message: Any) -> int:
    return int(message.header.stamp.sec) * 1_000_000_000 + int(message.header.stamp.nanosec)


def _decode(bag: Path, connection: Connection, message: Any) -> tuple[npt.NDArray[np.uint8], str]:
    """The pixels, or none and why."""
    try:
        if connection.msgtype == COMPRESSED:
            return decode_compressed(message.data), ''
        image = decode_image(
            message.height,
            message.width,
            message.encoding,
            message.is_bigendian,
            message.step,
            message.data,
        )
    except ImageError as error:
        where = f"bag {bag}: the image of '{connection.topic}' at {_stamp(message)} ns"
        return np.empty((0, 0, 3), np.uint8), f'{where}: {error}'
    return image, ''


@functools.cache
def _qos() -> Qos:
    forever = QosTime(2147483647, 4294967295)
    return Qos(
        QosHistory.KEEP_LAST,
        10,
        QosReliability.RELIABLE,
        QosDurability.VOLATILE,
        forever,
        forever,
        QosLiveliness.AUTOMATIC,
        forever,
        False,
    )


def _write(writer: Writer, frames: Iterable[Frame], progress: Progress | None) -> int:
    store = typestore()
    types = store.types

    def channel(topic: str, kind: str) -> Connection:
        return writer.add_connection(topic, kind, typestore=store, offered_qos_profiles=[_qos()])

    # The label before the image, so that a player publishes it first.
    truth = channel('/ground_truth', CLASSIFICATION)
    scene = channel('/scene', CLASSIFICATION)
    image = channel('/image', IMAGE)

    def write(connection: Connection, received: int, message: object) -> None:
        writer.write(connection, received, store.serialize_cdr(message, connection.msgtype))

    def named(header: Any, name: str, score: float) -> object:
        hypothesis = types['vision_msgs/msg/ObjectHypothesis'](class_id=name, score=score)
        return types[CLASSIFICATION](header=header, results=[hypothesis])

    others: dict[str, Connection] = {}
    count = start = 0
    pace = Pace()
    for frame in frames:
        seconds, nanoseconds = divmod(frame.stamp_ns, 1_000_000_000)
        if not 0 <= seconds < 2**31:
            raise BagError(f'frame {count}: stamp {frame.stamp_ns} ns does not fit a ROS time')
        header = types['std_msgs/msg/Header'](
            stamp=types['builtin_interfaces/msg/Time'](sec=seconds, nanosec=nanoseconds),
            frame_id=frame.frame_id,
        )
        # A player goes by the times of receipt, and stamps may be none, or run back.
        start = start if count else frame.stamp_ns
        received = start + round(pace.time(frame.stamp_ns) * 1e9)
        if frame.label is not None:
            write(truth, received, named(header, frame.label, 1.0))
        for name, label in frame.others.items():
            if name not in others:
                others[name] = channel(f'/ground_truth/{name}', CLASSIFICATION)
            write(others[name], received, named(header, label, 1.0))
        if frame.scene is not None:
            write(scene, received, named(header, frame.scene, frame.severity))
        write(image, received, _image_message(types, header, frame.image, count))
        count += 1
        if progress is not None:
            progress(count)
    return count


def _image_message(types: Any, header: Any, image: npt.NDArray[np.uint8], count: int) -> object:
    rgb = image.ndim == 3 and image.shape[2] == 3
    if not (rgb or image.ndim == 2) or image.dtype != np.uint8 or not image.size:
        raise BagError(
            f'frame {count}: image is {image.dtype} {image.shape}, expected uint8 (H, W, 3) '
            'or (H, W)'
        )
    height, width = image.shape[:2]
    return types[IMAGE](
        header=header,
        height=height,
        width=width,
        encoding='rgb8' if rgb else 'mono8',
        is_bigendian=0,
        step=width * (3 if rgb else 1),
        data=np.ascontiguousarray(image).reshape(-1),
    )
