# Copyright 2026 The sparse_split_ros authors
# SPDX-License-Identifier: Apache-2.0
"""The two sides of a hierarchical training on two machines, over one TCP connection.

The edge calls the cloud, so only the cloud has to be reachable. Batches and reports travel one way
as safetensors; back come a welcome and, after each epoch, a verdict, as JSON. Nothing is unpickled.
The key that both have to know is no encryption: who can read the line reads codes and labels.
"""

from __future__ import annotations

import json
import os
import queue
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import replace
from multiprocessing import AuthenticationError
from multiprocessing.connection import Connection, answer_challenge, deliver_challenge
from pathlib import Path
from typing import Any, TypeAlias
from urllib.parse import urlsplit

import numpy as np
import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor
from tqdm import tqdm

from sparse_split_ros.data.datasets import LabelledImages
from sparse_split_ros.training.hierarchical import (
    Batch,
    Cloud,
    Edge,
    Facts,
    Report,
    Weights,
    agreed,
    one_process,
)
from sparse_split_ros.training.learner import under
from sparse_split_ros.training.recipe import Recipe, TrainingError

KEY = 'SPARSE_SPLIT_TRAINING_KEY'
"""The environment variable with the key, where the default is not enough."""
_FORMAT = 'sparse_split_training/1'
_OF_A_MACHINE = ('mean', 'std', 'threads', 'workers')
"""What recipes may differ in: the edge measures the first two, the others each side chooses."""
_LONGEST = 1 << 30
_AHEAD = 8
"""Batches that wait for the link while the edge computes the next."""
_PATIENCE_S = 120.0
_GREETING_S = 10
"""How long a peer may be silent that has not shown that it knows the key."""
_SILENCE_S = 300
Message: TypeAlias = Batch | Report | Weights


def at_the_edge(
    recipe: Recipe,
    training: LabelledImages,
    selection: Mapping[str, LabelledImages],
    out: str | os.PathLike[str],
    address: str,
    resume: bool = False,
    device: str = 'auto',
) -> None:
    """Be the edge of a training whose cloud is, or will be, at `address` HOST:PORT.

    What is learned is kept there; `out` holds what this side goes on from. Raises TrainingError.
    """
    directory = _directory(out)
    torch.set_num_threads(recipe.threads)
    facts = Facts.of(recipe, training, selection)
    with one_process(device) as where:
        edge = Edge(facts, training, selection, directory, where)
        held = edge.held() if resume else []
        with call(*place(address)) as line:
            line.tell({'format': _FORMAT, **facts.meta(), 'held': held})
            _teach(line, edge)


def _teach(line: Line, edge: Edge) -> None:
    answer = line.hear(epoch=int, best=int, goes_on=bool)
    if answer['epoch']:
        edge.restore(answer['epoch'])
        edge.keep(answer['best'])
    while answer['goes_on']:
        with line.sending() as send:
            for batch in edge.batches():
                send(to_bytes(batch))
            send(to_bytes(edge.report()))
        answer = line.hear(epoch=int, best=int, goes_on=bool, score=float)
        if answer['best'] == edge.epoch:
            edge.keep(edge.epoch)
        tqdm.write(
            f'epoch {answer["epoch"] - 1}  score {answer["score"]:.4g}  '
            f'sent {line.sent / 1e6:.1f} MB'
        )
    line.give(to_bytes(edge.best()))
    line.hear()


def in_the_cloud(
    recipe: Recipe,
    out: str | os.PathLike[str],
    address: str,
    resume: bool = False,
    device: str = 'auto',
) -> Path:
    """Be the cloud of a training, for the edge that calls `address` [HOST:]PORT.

    The path of the best checkpoint, which is of the whole network. Raises TrainingError.
    """
    directory = _directory(out)
    torch.set_num_threads(recipe.threads)
    with one_process(device) as where, called(*place(address)) as line:
        try:
            _serve(line, recipe, directory, resume, where)
        except TrainingError as error:
            with suppress(TrainingError):
                line.tell({'error': str(error)})
            raise
    return directory / 'best.safetensors'


def _serve(line: Line, recipe: Recipe, directory: Path, resume: bool, device: torch.device) -> None:
    hello = line.hear()
    if hello.get('format') != _FORMAT:
        raise TrainingError(
            f'the edge speaks {hello.get("format")!r}, expected {_FORMAT!r}: install the same '
            'release on both machines'
        )
    try:
        facts = Facts(
            Recipe.from_mapping(hello['recipe']),
            {name: tuple(map(str, classes)) for name, classes in hello['tasks'].items()},
            int(hello['steps_per_epoch']), str(hello['learned_on']), dict(hello['chosen_on']),
        )  # fmt: skip
        if facts.steps < 1 or not facts.width or not facts.chosen_on:
            raise ValueError('no steps, classes or images to choose the epoch on')
        held = [int(epoch) for epoch in hello['held']]
    except (LookupError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise TrainingError(f'the edge said what is no greeting: {error!r}') from error
    theirs, ours = facts.recipe.plain(), recipe.plain()
    if differ := [key for key in ours if ours[key] != theirs[key] and key not in _OF_A_MACHINE]:
        raise TrainingError(
            f"the edge's recipe differs in {', '.join(differ)}: give both sides the same file"
        )
    facts = replace(
        facts, recipe=replace(facts.recipe, threads=recipe.threads, workers=recipe.workers)
    )
    cloud = Cloud(facts, directory, device)
    if resume:
        cloud.restore()
    agreed(held, cloud.epoch)
    line.tell({'epoch': cloud.epoch, 'goes_on': cloud.log.goes_on, 'best': cloud.log.best})
    while cloud.log.goes_on:
        bar = tqdm(
            range(facts.steps), f'epoch {cloud.epoch + 1}/{recipe.epochs}',
            recipe.epochs * facts.steps, leave=False, initial=cloud.epoch * facts.steps,
            unit='step',
        )  # fmt: skip
        for step in bar:
            batch = parse(line.take())
            if not isinstance(batch, Batch) or (batch.epoch, batch.step) != (cloud.epoch, step):
                raise TrainingError(f'the edge is not at step {step} of epoch {cloud.epoch}')
            cloud.learn(batch)
        report = parse(line.take())
        if not isinstance(report, Report) or report.epoch != cloud.epoch:
            raise TrainingError(f'the edge did not report on epoch {cloud.epoch}')
        cloud.close(report)
        score = cloud.log.rows[-1]['score']
        verdict = {'epoch': cloud.epoch, 'goes_on': cloud.log.goes_on, 'best': cloud.log.best}
        line.tell(verdict | {'score': score})
    weights = parse(line.take())
    if not isinstance(weights, Weights):
        raise TrainingError('the edge did not send its part of the network')
    cloud.finish(weights)
    line.tell({'epoch': cloud.epoch})


def to_bytes(message: Message) -> bytes:
    """What travels: tensors, and the rest as JSON in one of them."""
    about: dict[str, Any] = {'kind': type(message).__name__, 'epoch': message.epoch}
    if isinstance(message, Batch):
        about['step'] = message.step
        tensors = {'codes': message.codes, 'labels': message.labels.to(torch.int32)}
    elif isinstance(message, Report):
        about['row'] = message.row
        tensors = {f'codes/{name}': tensor for name, tensor in message.codes.items()}
        tensors |= {f'labels/{name}': tensor for name, tensor in message.labels.items()}
    else:
        tensors = {f'weights/{name}': tensor for name, tensor in message.tensors.items()}
    words = np.frombuffer(json.dumps(about).encode(), np.uint8).copy()
    tensors = {name: tensor.contiguous() for name, tensor in tensors.items()}
    return bytes(safetensors.torch.save({**tensors, 'about': torch.from_numpy(words)}))


def parse(data: bytes) -> Message:
    """What `to_bytes` was given. Raises TrainingError for anything else."""
    try:
        tensors = safetensors.torch.load(data)
        about = json.loads(bytes(tensors.pop('about').numpy()))
        kind, epoch = about['kind'], about['epoch']
        if not isinstance(epoch, int):
            raise TypeError(f'epoch {epoch!r}')
        if kind == 'Batch':
            rows = _rows(tensors['codes'], tensors['labels'])
            return Batch(epoch, about['step'], rows, tensors['labels'].long())
        if kind == 'Weights':
            return Weights(epoch, under(tensors, 'weights/'))
        codes, labels_of = under(tensors, 'codes/'), under(tensors, 'labels/')
        for name, rows in codes.items():
            _rows(rows, labels_of[name])
        row = {key: float(value) for key, value in about['row'].items()}
        return Report(epoch, row, codes, {name: labels_of[name].long() for name in codes})
    except (
        SafetensorError, LookupError, TypeError, ValueError, AttributeError, ArithmeticError,
        RuntimeError,  # of torch, and of too many brackets
    ) as error:  # fmt: skip
        raise TrainingError(
            f'{len(data)} bytes came that are no message of the edge: {error!r}'
        ) from error


def _rows(codes: Tensor, labels: Tensor) -> Tensor:
    whole = labels.dtype in (torch.int32, torch.int64)
    if codes.dtype != torch.uint8 or codes.ndim != 2 or not whole or len(labels) != len(codes):
        raise ValueError(
            f'codes {tuple(codes.shape)} {codes.dtype} with labels {tuple(labels.shape)} '
            f'{labels.dtype}'
        )
    return codes


def place(address: str) -> tuple[str, int]:
    """Host and port of HOST:PORT, or of PORT, which is on every interface. Raises TrainingError."""
    try:
        parts = urlsplit(f'//{address}' if ':' in address else f'//0.0.0.0:{address}')
        if parts.hostname and parts.port:
            return parts.hostname, parts.port
    except ValueError:
        pass
    raise TrainingError(f'address {address!r}: expected HOST:PORT, such as 192.168.1.7:5600')


class Line:
    """The connection to the other side, whose every failure is a TrainingError."""

    def __init__(self, connection: Connection, peer: str) -> None:
        self._connection, self._peer = connection, peer
        self.sent = 0
        # Without these a peer whose cable is drawn would be waited for without end.
        with socket.socket(fileno=os.dup(connection.fileno())) as wire:
            wire.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            for name, value in (
                ('TCP_KEEPIDLE', _SILENCE_S // 10),
                ('TCP_USER_TIMEOUT', 1000 * _SILENCE_S),
            ):
                if hasattr(socket, name):  # not everywhere
                    wire.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)

    @contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except (OSError, EOFError) as error:
            reason = str(error) or type(error).__name__
            raise TrainingError(
                f'{self._peer} is gone ({reason}): start both sides again with --resume'
            ) from error

    def give(self, data: bytes) -> None:
        """Send bytes. Raises TrainingError."""
        if len(data) > _LONGEST:
            raise TrainingError(
                f'{len(data)} bytes at once for {self._peer}, expected at most {_LONGEST}: cut '
                'where fewer bytes travel, or choose the epoch on fewer images'
            )
        with self._told():
            self._connection.send_bytes(data)
        self.sent += len(data)

    def take(self) -> bytes:
        """Receive bytes."""
        with self._told():
            return self._connection.recv_bytes(_LONGEST)

    def tell(self, values: Mapping[str, Any]) -> None:
        """Send JSON."""
        self.give(json.dumps(values).encode())

    def hear(self, **kinds: type) -> dict[str, Any]:
        """Receive JSON that holds values of these kinds.

        Raises TrainingError, also for one that the other side tells.
        """
        data = self.take()
        try:
            values = json.loads(data)
            refusal = values.get('error')
        except (ValueError, AttributeError, RecursionError) as error:
            raise TrainingError(f'{self._peer} said what is no JSON object: {error}') from error
        if refusal:
            raise TrainingError(f'{self._peer} says: {refusal}')
        for key, kind in kinds.items():
            if not isinstance(values.get(key), kind):
                raise TrainingError(
                    f'{self._peer} said {key}: {values.get(key)!r}, expected {kind.__name__}: '
                    'install the same release on both machines'
                )
        return dict(values)

    @contextmanager
    def sending(self) -> Iterator[Callable[[bytes], None]]:
        """A way to send that returns before all is sent; at the end everything was."""
        waiting: queue.Queue[bytes | None] = queue.Queue(_AHEAD)
        failed: list[TrainingError] = []

        def send() -> None:
            while (data := waiting.get()) is not None:
                try:
                    if not failed:
                        self.give(data)
                except TrainingError as error:
                    failed.append(error)

        def check() -> None:
            if failed:
                self.hear()  # perhaps why
                raise failed[0]

        def put(data: bytes) -> None:
            waiting.put(data)
            check()

        thread = threading.Thread(target=send, name='to the cloud', daemon=True)
        thread.start()
        yield put
        # Not after an exception: the line may be stuck, and is closed then.
        waiting.put(None)
        thread.join()
        check()


@contextmanager
def call(host: str, port: int) -> Iterator[Line]:
    """The line to the cloud, which may start later than this side."""
    until = time.monotonic() + _PATIENCE_S
    told = False
    while True:
        try:
            wire = socket.create_connection((host, port), _GREETING_S)
            connection = _greeted(wire, answer_challenge, deliver_challenge)
            break
        except AuthenticationError as error:
            raise TrainingError(
                f'the cloud at {host}:{port} has another key: set {KEY} alike on both machines'
            ) from error
        except (OSError, EOFError) as error:
            if time.monotonic() > until:
                raise TrainingError(
                    f'no cloud at {host}:{port} ({error}): start it there by '
                    f'sparse-split train CONFIG --cloud {port}'
                ) from error
            if not told:
                tqdm.write(f'waiting for the cloud at {host}:{port}')
            told = True
            time.sleep(0.5)
    with connection:
        yield Line(connection, f'the cloud at {host}:{port}')


@contextmanager
def called(host: str, port: int) -> Iterator[Line]:
    """The line to the edge that calls first and knows the key."""
    try:
        family = socket.AF_INET6 if ':' in host else socket.AF_INET
        listener = socket.create_server((host, port), family=family)
    except OSError as error:
        raise TrainingError(f'{host}:{port} cannot be listened on: {error.strerror}') from error
    with listener:
        tqdm.write(f'waiting for the edge on {host}:{port}')
        while True:
            try:
                wire, caller = listener.accept()
                connection = _greeted(wire, deliver_challenge, answer_challenge)
                break
            except AuthenticationError:
                tqdm.write(f'somebody called with another key: set {KEY} alike on both machines')
            except (OSError, EOFError) as error:
                tqdm.write(f'a call that was none: {error!r}')
    with connection:
        yield Line(connection, f'the edge at {caller[0]}')


def _greeted(wire: socket.socket, *steps: Callable[[Connection, bytes], None]) -> Connection:
    """The connection to a peer, which knows the key. Raises what a peer without it leads to."""
    with wire:
        wire.settimeout(None)
        # On the socket itself, for a Connection has no limit of its own.
        wire.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack('ll', _GREETING_S, 0))
        connection = Connection(os.dup(wire.fileno()))
        try:
            for step in steps:
                step(connection, _key())
        except BaseException as error:
            connection.close()
            if isinstance(error, BlockingIOError):
                raise TimeoutError(f'silent for {_GREETING_S} s') from error
            if isinstance(error, AssertionError):  # Python 3.11 and older
                raise ConnectionError(f'another protocol: {error}') from error
            raise
        wire.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack('ll', 0, 0))
    return connection


def _key() -> bytes:
    # An empty one would be none: the cloud would not ask, and the edge wait to be asked.
    return (os.environ.get(KEY) or 'sparse_split_ros').encode()


def _directory(out: str | os.PathLike[str]) -> Path:
    directory = Path(out)
    directory.mkdir(parents=True, exist_ok=True)
    return directory
