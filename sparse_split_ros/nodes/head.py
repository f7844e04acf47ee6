# Copyright 2026 The sparse_split_ros authors
# SPDX-License-Identifier: Apache-2.0
"""The robot's node: images in, exactly one classification per accepted frame out.

Callbacks only hand over: images to a mailbox of one per camera (latest wins), replies to the state
machine. One worker thread runs the network, one waits for deadlines on a steady clock, so that
neither a busy executor nor a stalled ROS clock can delay an answer.
"""

from __future__ import annotations

import secrets
import socket
import threading
import time
from collections import deque
from dataclasses import dataclass
from functools import partial
from itertools import chain
from queue import SimpleQueue
from typing import Any

from sparse_split_ros.data.images import ImageError
from sparse_split_ros.link.announcement import Announcement, AnnouncementError
from sparse_split_ros.link.estimate import TailState
from sparse_split_ros.link.frame import FEATURE_FORMAT, FrameError, ReplyFrame
from sparse_split_ros.nodes import qos
from sparse_split_ros.nodes.messages import (
    RGB,
    TRANSPORTS,
    annotate,
    decision_message,
    image_message,
    image_of,
    labels_of,
    status,
    wire_message,
)
from sparse_split_ros.nodes.parameters import HEAD, Parameters
from sparse_split_ros.nodes.policies import (
    Memory,
    another,
    chosen,
    held_stages,
    policy_of,
    settings_of,
)
from sparse_split_ros.nodes.running import StoppableNode, run
from sparse_split_ros.policy.cost import PowerReading
from sparse_split_ros.policy.decision import Decision
from sparse_split_ros.policy.factory import apply_live, apply_power
from sparse_split_ros.policy.plan import Policy
from sparse_split_ros.policy.scene import SceneMeter
from sparse_split_ros.ros import (
    Classification,
    CompressedImage,
    DiagnosticArray,
    DiagnosticStatus,
    Header,
    Image,
    LabelInfo,
    String,
    subscribe,
    wait_until_heard,
)
from sparse_split_ros.runtime.bundle import Bundle, BundleError, bundle_path
from sparse_split_ros.runtime.engine import load_engine
from sparse_split_ros.runtime.head import Head, Step, compute, slowed
from sparse_split_ros.runtime.preprocess import fit, normalise

# From how many lost images on, and which share of all, a person is told of it.
_LOST, _LOST_SHARE = 10, 0.1
# What becomes of stamps that are of no use.
_COPIED = '; answers copy them as they are'
# The rate and the times in the diagnostics are of the last so many seconds, and answers at most.
_RECENT_S, _RECENT = 5.0, 5000
# A tail that comes and goes is not said to more often than this.
_SAY_STATE_S = 1.0
# How long a worker may take to finish its frame at shutdown, within the 2 s a node has to end.
_LAST_FRAME_S = 1.0
# And how long those who listen may take to get the last answers.
_LAST_ANSWERS_S = 0.2


@dataclass(frozen=True)
class _Mail:
    """An image on its way from the callback to the worker."""

    source: int
    message: Any
    arrived: float


@dataclass(frozen=True)
class _Origin:
    """What is kept of an image until its decision: its header, and itself while someone looks."""

    header: Header
    image: RGB | None


class HeadNode(StoppableNode):
    """Runs stages up to the split on each image, asks the tail when in doubt, answers in time."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__('head', **kwargs)
        self.settings = Parameters(self, HEAD, self._accept)
        settings = self.settings
        self.bundle = Bundle.load(bundle_path(settings.bundle))
        values = settings.values
        self._engine = load_engine(
            self.bundle, settings.engine, settings.device, settings.threads,
            held_stages(values, self.bundle),
        )  # fmt: skip
        self._labels = labels_of(self.bundle.tasks, settings.class_id_format == 'index')
        self.head = Head(
            self.bundle,
            policy_of(values, self.bundle, self._engine.name),
            deadline=settings.deadline_ms / 1e3,
            session=secrets.randbits(32),
            seed=settings.seed,
            max_in_flight=settings.max_in_flight,
            complain=self.complain,
        )
        # Guards the state machine; the deadline thread waits on it.
        self._state = threading.Condition()
        # When the deadline thread wakes up by itself.
        self._wakes = float('inf')
        # Guards the mailboxes, one per camera.
        self._mail = threading.Lock()
        # A token wakes the worker, which then takes all mail: half the time of a condition.
        self._arrived: SimpleQueue[None] = SimpleQueue()
        self._mailboxes: list[_Mail | None] = [None] * len(settings.cameras)
        self._turn = 0
        self._stopping = False
        self.received = 0
        self.lost = 0
        self.dropped = 0
        self.rejected = 0
        self.bad_replies = 0
        # When the diagnostics last looked: how often the policy raised, images got no answer, and
        # answers were given.
        self._looked = (0, 0, 0)
        self._recent: deque[tuple[float, float]] = deque(maxlen=_RECENT)
        self._started = time.monotonic()
        self._last_images = [self._started] * len(settings.cameras)
        self._warned_of: set[str] = set()
        self._last_stamps: list[tuple[int, int] | None] = [None] * len(settings.cameras)
        self._last_state = TailState.UNKNOWN
        self._said_state = float('-inf')
        # One per camera, used by the worker alone.
        self._meters = [SceneMeter() for _ in settings.cameras]
        self._power = PowerReading()
        self._feedback = 'ok'
        self._memory: Memory | None = None
        # What a replay teaches is not of this robot's world.
        if settings.policy_state and not self.get_parameter('use_sim_time').value:
            self._memory = Memory(
                settings.policy_state, self.get_fully_qualified_name(), self.bundle,
                self._state, partial(self.complain, 'policy state'),
            )  # fmt: skip
            self._remember(chosen(values, self.bundle), self.head.policy)
        self._connect()
        self._threads = [
            threading.Thread(target=self._work, name='head worker', daemon=True),
            threading.Thread(target=self._watch, name='head deadlines', daemon=True),
        ]
        for thread in self._threads:
            thread.start()
        self.get_logger().info(
            f'head runs bundle {self.bundle.name} ({self.bundle.fingerprint.hex()}) on '
            f'{self._engine.name}, session {self.head.tracker.session:08x}, '
            f'policy {chosen(values, self.bundle)}'
        )
        if settings.robot_profile > 1:
            self.get_logger().warning(
                f'SIMULATION: this robot is made {settings.robot_profile:g} times slower'
            )

    def _connect(self) -> None:
        """Make every publisher, subscription and timer; none is made or destroyed later."""
        wire = qos.RELIABLE_WIRE if self.settings.reliable else qos.WIRE
        self._features = self.create_publisher(CompressedImage, 'features', **qos.overridable(wire))
        self._decisions = self.create_publisher(DiagnosticArray, 'decision', qos.RESULT)
        self._diagnostics = self.create_publisher(DiagnosticArray, '/diagnostics', qos.RESULT)
        self._label_infos = [
            self.create_publisher(LabelInfo, f'label_info{each.suffix}', qos.LATCHED)
            for each in self._labels
        ]
        self._tell_labels(self.settings.threshold)
        self.create_subscription(
            CompressedImage, 'tail/reply', self._on_reply, **qos.overridable(wire)
        )
        self.create_subscription(String, 'tail/status', self._on_status, qos.LATCHED)
        kind, suffix = TRANSPORTS[self.settings.image_transport]
        self._classifications = []
        self._annotated = []
        self._images = []
        for source, camera in enumerate(self.settings.cameras):
            prefix = f'{camera}/' if camera else ''
            self._classifications.append(
                [
                    self.create_publisher(
                        Classification, f'{prefix}classification{each.suffix}', qos.RESULT
                    )
                    for each in self._labels
                ]
            )
            self._annotated.append(self.create_publisher(Image, f'{prefix}annotated', qos.RESULT))
            # A remapping of the base topic must reach its compressed sibling, as users expect
            # from image_transport.
            base = self.resolve_topic_name(f'{prefix}image')
            self._images.append(
                subscribe(
                    self,
                    kind,
                    base + suffix,
                    partial(self._on_image, source),
                    lost=self._on_lost,
                    **qos.overridable(qos.IMAGE),
                )
            )
        self.create_timer(1.0, self._diagnose, clock=qos.steady_clock())

    def _tell_labels(self, threshold: float) -> None:
        shown = self.bundle.defaults.threshold if threshold < 0 else threshold
        for publisher, labels in zip(self._label_infos, self._labels):
            publisher.publish(labels.info(shown))

    def _accept(self, values: dict[str, Any]) -> None:
        """Take live changes, all or none; raises ValueError."""
        policy = self.head.policy
        try:
            settings = settings_of(values, self.bundle, self._engine.name)
            if another(self.settings.values, values, self.bundle):
                policy = policy_of(values, self.bundle, self._engine.name)
                self._remember(chosen(values, self.bundle), policy)
        except BundleError as error:
            raise ValueError(str(error)) from error
        with self._state:
            apply_live(policy, settings)
            self.head.policy = policy
            self.head.deadline = settings.deadline_ms / 1e3
        if settings.threshold != self.settings.threshold:
            self._tell_labels(settings.threshold)

    def _remember(self, name: str, policy: Policy) -> None:
        """Give a new policy what it once learned, where that is kept, and say so."""
        text = self._memory.adopt(name, policy) if self._memory is not None else ''
        if text:
            self.get_logger().info(text)

    def _on_image(self, source: int, message: Image | CompressedImage) -> None:
        mail = _Mail(source, message, time.monotonic())
        with self._mail:
            if self._stopping:
                return
            self.received += 1
            self.dropped += self._mailboxes[source] is not None
            self._mailboxes[source] = mail
        if self._arrived.empty():
            self._arrived.put(None)
        self._last_images[source] = mail.arrived

    def _on_lost(self, count: int) -> None:
        self.lost += count

    def _on_reply(self, message: CompressedImage) -> None:
        try:
            reply = ReplyFrame.parse(memoryview(message.data))
        except FrameError as error:
            self.bad_replies += 1
            self.complain('bad reply', str(error))
            return
        with self._state:
            step = self.head.answer(reply, time.monotonic())
            self._reschedule()
        self._emit(step)
        self._say_state()

    def _on_status(self, message: String) -> None:
        try:
            announcement = Announcement.from_json(message.data)
        except AnnouncementError as error:
            self.complain('bad status', str(error))
            return
        with self._state:
            self.head.announced(announcement, time.monotonic())
            self._reschedule()
        self._say_state()

    def _work(self) -> None:
        """Take mail until told to stop; whatever goes wrong with one frame costs that frame."""
        while not self._stopping:
            self._arrived.get()
            while (mail := self._take()) is not None:
                try:
                    self._process(mail)
                except Exception as error:
                    self.complain('frame lost', f'{type(error).__name__}: {error}')

    def _take(self) -> _Mail | None:
        """The next mail, cameras in turn; None when there is none."""
        count = len(self._mailboxes)
        with self._mail:
            for turn in range(self._turn, self._turn + count):
                mail = self._mailboxes[turn % count]
                if mail is not None:
                    self._mailboxes[turn % count] = None
                    self._turn = (turn + 1) % count
                    return mail
        return None

    def _process(self, mail: _Mail) -> None:
        start = time.monotonic()
        try:
            image = image_of(mail.message)
            # The scene is measured on what the network sees, as calibration was.
            seen = fit(image, self.bundle.input, self.settings.roi)
            x = normalise(seen, self.bundle.input)
            scene = self._meters[mail.source](seen)
        except Exception as error:
            self.rejected += 1
            kind = '' if isinstance(error, ImageError) else f'{type(error).__name__}: '
            self.complain('bad image', f'{kind}{error}')
            return
        header = mail.message.header
        self._check_stamp(mail.source, header)
        looked_at = self._annotated[mail.source].get_subscription_count() > 0
        origin = _Origin(header, image if looked_at else None)
        prepare_ms = (time.monotonic() - start) * 1e3
        with self._state:
            ticket = self.head.begin(mail.source, origin, scene, mail.arrived, time.monotonic())
        try:
            computed = compute(self._engine, ticket, x, prepare_ms)
            if self.settings.robot_profile > 1:
                real_ms = computed.compute_ms
                computed = slowed(computed, self.settings.robot_profile)
                time.sleep((computed.compute_ms - real_ms) / 1e3)
            with self._state:
                step = self.head.computed(ticket.sequence, computed, time.monotonic())
                self._reschedule()
        except Exception:
            # Nobody waits for this frame any more; the thread that asked says what went wrong.
            with self._state:
                self.head.failed(ticket.sequence)
            raise
        self._emit(step, header)

    def _reschedule(self) -> None:
        """Wake the deadline thread, but only for what is due before it wakes up by itself."""
        due = self.head.next_deadline()
        if due is not None and due < self._wakes:
            self._state.notify()

    def _watch(self) -> None:
        """Let deadlines pass when they do."""
        while True:
            with self._state:
                if self._stopping:
                    return
                due = self.head.next_deadline()
                now = time.monotonic()
                if due is None or due > now:
                    self._wakes = float('inf') if due is None else due
                    self._state.wait(None if due is None else due - now)
                    continue
                try:
                    step = self.head.tick(now)
                except Exception as error:  # costs these frames, and not all that come after them
                    self.complain('frame lost', f'{type(error).__name__}: {error}')
                    continue
            self._emit(step)
            self._say_state()

    def _emit(self, step: Step, header: Header | None = None) -> None:
        """Send what a step asks for; features first, somebody waits for them, and learn last.

        Never raises: it would end the thread that keeps the deadlines, or the executor.
        """
        try:
            if step.frame is not None and header is not None:
                self._features.publish(wire_message(step.frame, header, FEATURE_FORMAT))
        except Exception as error:
            self.complain('features not sent', f'{type(error).__name__}: {error}')
        for decision in step.decisions:
            try:
                self._publish(decision)
            except Exception as error:
                self.complain('answer not published', f'{type(error).__name__}: {error}')
        if step.decisions:
            with self._state:
                self.head.teach()

    def _publish(self, decision: Decision) -> None:
        origin: _Origin = decision.header
        limit = self.settings.max_results
        for publisher, labels in zip(self._classifications[decision.source], self._labels):
            publisher.publish(labels.classification(origin.header, decision.scores, limit))
        self._decisions.publish(decision_message(decision, origin.header, *self._labels))
        if origin.image is not None:
            picture = annotate(origin.image, decision, *self._labels)
            self._annotated[decision.source].publish(image_message(picture, origin.header))
        self._recent.append((time.monotonic(), decision.times.total))

    def _check_stamp(self, source: int, header: Header) -> None:
        """Say once per camera when stamps are of no use to those who join by them."""
        stamp = (header.stamp.sec, header.stamp.nanosec)
        camera = self.settings.cameras[source] or 'the camera'
        if stamp == (0, 0):
            self._say_once(f'zero {source}', f'{camera} sends images with zero stamps{_COPIED}')
        elif stamp == self._last_stamps[source]:
            self._say_once(f'same {source}', f'{camera} repeats stamps, first {stamp}{_COPIED}')
        self._last_stamps[source] = stamp

    def _say_once(self, key: str, text: str) -> None:
        if key not in self._warned_of:
            self._warned_of.add(key)
            self.get_logger().warning(text)

    def _say_state(self) -> None:
        """One line per change of the tail's state, as far as it lasts."""
        now = time.monotonic()
        with self._state:
            tracker = self.head.tracker
            state = tracker.state
            if state is self._last_state or now - self._said_state < _SAY_STATE_S:
                return
            self._last_state, self._said_state = state, now
        if state is TailState.UP:
            self.get_logger().info(f'tail {tracker.tail} is up: doubtful frames are sent')
        elif state is TailState.FOREIGN:
            self.last_error = tracker.objection
            self.get_logger().error(f'{tracker.objection}; answering from the robot')
        else:
            self.get_logger().warning(f'tail is {state.value}: answering from the robot')

    def _say_feedback(self, feedback: str) -> None:
        """One line when the policy stops or starts to believe the tail."""
        if feedback == self._feedback:
            return
        if (feedback == 'ok') != (self._feedback == 'ok'):
            if feedback == 'ok':
                self.get_logger().info('the tail is believed again')
            else:
                self.get_logger().error(f'the tail is not believed: {feedback}')
        self._feedback = feedback

    def _diagnose(self) -> None:
        now, watts = time.monotonic(), self._power.watts()
        with self._state:
            if watts is not None:
                apply_power(self.head.policy, watts)
            counts, tracker = self.head.counts, self.head.tracker
            link, waiting = tracker.link(), len(tracker)
            decided = self.head.diagnosed()
        self._say_state()
        self._say_feedback(str(decided.get('feedback', 'ok')))
        if decided.get('policy_rejected'):
            self._say_once(
                'rejected',
                'a confidence was no number from 0 to 1: the policy learns nothing from such '
                'frames, which policy_rejected in /diagnostics counts; check the bundle',
            )
        if self.lost >= _LOST and self.lost >= _LOST_SHARE * (self.lost + self.received):
            self._say_once(
                'lost',
                f'{self.lost} images were lost on their way here, {self.received} arrived (lost in '
                f'/diagnostics counts on); {self._may_help()}',
            )
        recent = [item for item in list(self._recent) if now - item[0] < _RECENT_S]
        totals = sorted(total for _, total in recent)
        patience = self.settings.no_image_warning_s
        silent = [n for n, last in enumerate(self._last_images) if now - last > patience]
        looked = (
            counts.policy_faults, self.rejected + counts.failed, sum(counts.routes.values()),
        )  # fmt: skip
        faults, spoilt, answers = (count - last for count, last in zip(looked, self._looked))
        self._looked = looked
        ok, warn, error = DiagnosticStatus.OK, DiagnosticStatus.WARN, DiagnosticStatus.ERROR
        if silent:
            level = error if len(silent) == len(self._images) else warn
            text = self._no_image(silent, now)
            self.get_logger().warning(text, throttle_duration_sec=30.0)
        elif spoilt:
            level = warn if answers else error
            text = f'{spoilt} images got no answer, {answers} did: {self.last_error}'
        elif self._feedback != 'ok':
            level, text = warn, f'the tail is not believed: {self._feedback}'
        elif faults:
            level, text = warn, f'the policy raised: {self.last_error}'
        elif link.state is not TailState.UP:
            level, text = warn, tracker.objection or f'tail {link.state.value}: local answers only'
        elif not decided.get('promise_feasible', True):
            level, text = warn, 'target_disagreement cannot be kept here: coding alone changes more'
        else:
            level, text = ok, 'running'
        values: dict[str, object] = {
            'received': self.received,
            'lost': self.lost,
            'accepted': counts.accepted,
            'dropped': self.dropped,
            'rejected': self.rejected,
            'failed': counts.failed,
            **{route.value: count for route, count in counts.routes.items()},
            'frame_rate_hz': len(recent) / min(_RECENT_S, now - self._started),
            'latency_p50_ms': totals[len(totals) // 2] if totals else 0.0,
            'latency_max_ms': totals[-1] if totals else 0.0,
            'deadline_ms': self.settings.deadline_ms,
            'in_flight': waiting,
            'sent': counts.sent,
            'sent_bytes_mean': counts.sent_bytes / max(1, counts.sent),
            'link': link.state.value,
            'rtt_ms': link.rtt_ms,
            'jitter_ms': link.jitter_ms,
            'goodput_bytes_per_s': link.goodput,
            'loss': link.loss,
            **{f'replies {arrival.value}': n for arrival, n in counts.replies.items()},
            'bad_replies': self.bad_replies,
            'tail': tracker.tail,
            'bundle': self.bundle.name,
            'fingerprint': self.bundle.fingerprint.hex(),
            'engine': self._engine.name,
            'policy': chosen(self.settings.values, self.bundle),
            **decided,
            'policy_faults': counts.policy_faults,
            'unsendable': counts.unsendable,
            'scene_changes': sum(meter.changes for meter in self._meters),
            **({} if watts is None else {'watts': watts}),
            'simulated_slowdown': self.settings.robot_profile,
            'last_error': self.last_error,
        }
        header = Header(stamp=self.get_clock().now().to_msg())
        name = f'{self.get_fully_qualified_name()}: frames'
        self._diagnostics.publish(
            DiagnosticArray(
                header=header,
                status=[status(level, name, text, socket.gethostname(), values)],
            )
        )

    def _no_image(self, silent: list[int], now: float) -> str:
        """What a person needs to find out why nothing arrives from these cameras."""
        found = []
        for source in silent:
            topic = self._images[source].topic_name
            publishers = self.get_publishers_info_by_topic(topic)
            kinds = ', '.join(
                f'{p.topic_type} {p.qos_profile.reliability.name.lower()}' for p in publishers
            )
            found.append(f'{topic}: {len(publishers)} publishers{f" ({kinds})" if kinds else ""}')
        since = max(self._last_images[source] for source in silent)
        text = f'no image for {now - since:.0f} s; {"; ".join(found)}'
        if not self.received and 'sensor_msgs/msg/Image ' in text:
            text += f'; {self._may_help()}'
        return text

    def _may_help(self) -> str:
        """What to do where large images do not arrive: a lost fragment costs its whole image."""
        topic = self._images[0].topic_name
        return (
            'large raw images may need larger receive buffers (DDS tuning in the documentation of '
            f'ROS 2), qos_overrides.{topic}.subscription.reliability: reliable in the parameter '
            'file where they are published so, or image_transport compressed'
        )

    def stop(self) -> None:
        """Take no more images, answer what is pending from the robot; publishing still works."""
        with self._mail, self._state:
            self._stopping = True
            self._state.notify_all()
            self.dropped += sum(mail is not None for mail in self._mailboxes)
            self._mailboxes = [None] * len(self._mailboxes)
        self._arrived.put(None)
        end = time.monotonic() + _LAST_FRAME_S
        for thread in self._threads:
            thread.join(max(0.0, end - time.monotonic()))
        with self._state:
            step = self.head.stop(time.monotonic())
        self._emit(step)
        end = time.monotonic() + _LAST_ANSWERS_S
        answers = chain(*self._classifications, [self._decisions])
        for publisher in answers if step.decisions else ():
            wait_until_heard(publisher, max(0.0, end - time.monotonic()))
        if self._memory is not None:
            self._memory.close()


def main(args: list[str] | None = None) -> int:
    """Run the head until SIGINT or SIGTERM."""
    return run(HeadNode, args)


if __name__ == '__main__':
    raise SystemExit(main())
