# Copyright 2026 The sparse_split_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Plays any source of frames as a camera would: a bag, images, a video, a device, the drive."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from itertools import chain
from typing import Any

from sparse_split_ros.data.bags import BagError, Frame
from sparse_split_ros.data.pace import USUAL_RATE, Pace
from sparse_split_ros.data.sources import SourceError, open_source, passing_over
from sparse_split_ros.nodes import qos
from sparse_split_ros.nodes.messages import image_message, named, recorded_header
from sparse_split_ros.nodes.parameters import PLAYER, Parameters
from sparse_split_ros.nodes.running import StoppableNode, run
from sparse_split_ros.ros import Classification, Image, Publisher


class PlayerNode(StoppableNode):
    """Publishes ``image``, ``ground_truth`` and ``scene`` at the recorded pace, times ``rate``.

    The truth of a further task is on ``ground_truth/NAME``.
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__('player', **kwargs)
        self.published = 0
        self.settings = Parameters(self, PLAYER)
        if not self.settings.source:
            raise ValueError("parameter source is empty: name a bag, a folder, a video or 'drive'")
        self._image = self.create_publisher(Image, 'image', qos.RESULT)
        self._truth = self.create_publisher(Classification, 'ground_truth', qos.RESULT)
        self._scene = self.create_publisher(Classification, 'scene', qos.RESULT)
        self._others: dict[str, Publisher] = {}
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._play, name='player', daemon=True)
        self._thread.start()

    def _play(self) -> None:
        try:
            frames = self._open()
            self._wait_for_subscribers()
            while self._play_once(frames):
                frames = self._open()
            self.get_logger().info(f'played {self.published} frames of {self.settings.source}')
        except (BagError, SourceError) as error:
            self.get_logger().error(str(error))
            self.exit_status = 1
        except Exception:
            self.exit_status = 1  # and the trace of what is a fault of ours
            raise
        finally:
            self.done = True

    def _open(self) -> Iterator[Frame]:
        """Read the first frame at once: what cannot be read is known before anybody waits."""
        images = open_source(self.settings.source, self.settings.image_topic or None, broken=True)
        frames = passing_over(images, lambda why: self.complain('passed over', why))
        for first in frames:
            self._make_publishers(first)  # to be found before anything is played
            return chain([first], frames)
        raise SourceError(f'{self.settings.source} holds no image')

    def _make_publishers(self, frame: Frame) -> None:
        for name in frame.truths.keys() - self._others.keys():
            self._others[name] = self.create_publisher(
                Classification, f'ground_truth/{name}', qos.RESULT
            )

    def _wait_for_subscribers(self) -> None:
        end = time.monotonic() + self.settings.wait_s
        while self._image.get_subscription_count() < self.settings.subscribers:
            if time.monotonic() > end:
                self.get_logger().warning(
                    f'{self._image.get_subscription_count()} subscribers after '
                    f'{self.settings.wait_s:g} s, playing anyway'
                )
                return
            if self._stopping.wait(0.02):
                return

    def _play_once(self, frames: Iterator[Frame]) -> bool:
        """Play to the end, the limit or the stop; returns whether to start again."""
        pace, start = Pace(), time.monotonic()
        for frame in frames:
            due = start + pace.time(frame.stamp_ns) / self.settings.rate
            if pace.guessed:
                self.get_logger().warning(
                    f'{self.settings.source}: stamps stand still, run back or jump by more than an '
                    f'hour, first at {frame.stamp_ns} ns: such frames come at {USUAL_RATE:g} Hz',
                    once=True,
                )
            if self._stopping.wait(max(0.0, due - time.monotonic())):
                return False
            self._publish(frame)
            if self.published == self.settings.limit:
                return False
        # The first frame comes after the last as the last came after the one before.
        return self.settings.loop and not self._stopping.wait(pace.step / self.settings.rate)

    def _publish(self, frame: Frame) -> None:
        header = recorded_header(frame.stamp_ns, frame.frame_id)
        if self.settings.stamps == 'now':
            header.stamp = self.get_clock().now().to_msg()
        # What belongs to an image comes before it, so that it is there when the image is.
        if frame.label is not None:
            self._truth.publish(named(header, frame.label))
        self._make_publishers(frame)
        for name, label in frame.truths.items():
            self._others[name].publish(named(header, label))
        if frame.scene is not None:
            self._scene.publish(named(header, frame.scene, frame.severity))
        self._image.publish(image_message(frame.image, header))
        self.published += 1

    def stop(self) -> None:
        """Stop playing."""
        self._stopping.set()
        self._thread.join(1.0)


def main(args: list[str] | None = None) -> int:
    """Play until the end, SIGINT or SIGTERM."""
    return run(PlayerNode, args)


if __name__ == '__main__':
    raise SystemExit(main())
