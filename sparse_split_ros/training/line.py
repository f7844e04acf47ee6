# Copyright 2026 The sparse_split_ros authors
# SPDX-License-Identifier: Apache-2.0
"""The TCP connection of a hierarchical training: calling, greeting, and what goes wrong of it.

The key that both sides have to know is no encryption: who can read the line reads codes and labels.
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
from contextlib import contextmanager
from multiprocessing import AuthenticationError
from multiprocessing.connection import Connection, answer_challenge, deliver_challenge
from typing import Any
from urllib.parse import urlsplit

from tqdm import tqdm

from sparse_split_ros.training.recipe import TrainingError

KEY = 'SPARSE_SPLIT_TRAINING_KEY'
"""The environment variable with the key, where the default is not enough."""
_LONGEST = 1 << 30
_AHEAD = 8
"""Batches that wait for the link while the edge computes the next."""
_PATIENCE_S = 120.0
_GREETING_S = 10
"""How long a peer may be silent that has not shown that it knows the key."""
_SILENCE_S = 300


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
