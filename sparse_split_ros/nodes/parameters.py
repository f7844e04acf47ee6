# Copyright 2026 The sparse_split_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Every parameter of every node: default, meaning, range, and whether it can be set live."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from sparse_split_ros.link.codec import CODECS
from sparse_split_ros.policy.cost import WEIGHTS
from sparse_split_ros.policy.factory import POLICIES
from sparse_split_ros.ros import (
    FloatingPointRange,
    IntegerRange,
    Node,
    Parameter,
    ParameterDescriptor,
    SetParametersResult,
)
from sparse_split_ros.runtime.engine import ENGINES, MAX_THREADS


@dataclass(frozen=True)
class _Form:
    """What a list has to be: a test, and the same in words."""

    holds: Callable[[Sequence[Any]], bool]
    expected: str


# A name given twice would be answered twice, and without any nothing would be.
_NAMES = _Form(
    lambda names: 0 < len(names) == len({name.strip('/') for name in names}),
    'one name or more, each once',
)
_REGION = _Form(
    lambda roi: len(roi) == 4 and (not any(roi) or min(roi[2:]) > 0),
    '4 numbers, with a width and a height of at least 1 or zeros throughout',
)


@dataclass(frozen=True)
class Spec:
    """One parameter. ``low`` and ``high`` bound numbers, ``choices`` texts, ``form`` lists."""

    name: str
    default: Any
    description: str
    low: float | None = None
    high: float | None = None
    choices: tuple[str, ...] = ()
    live: bool = False
    form: _Form | None = None

    def descriptor(self) -> ParameterDescriptor:
        """What ``ros2 param describe`` shows."""
        descriptor = ParameterDescriptor(description=self.description, read_only=not self.live)
        if self.choices:
            descriptor.additional_constraints = f'one of {", ".join(map(repr, self.choices))}'
        if self.low is not None and self.high is not None:
            if isinstance(self.default, float):
                descriptor.floating_point_range = [
                    FloatingPointRange(from_value=float(self.low), to_value=float(self.high))
                ]
            else:
                descriptor.integer_range = [
                    IntegerRange(from_value=int(self.low), to_value=int(self.high), step=1)
                ]
        return descriptor


_MODEL = (
    Spec('bundle', 'gtsrb32', 'Bundle: a directory, or the name of a shipped one'),
    Spec('engine', 'auto', 'What runs the network; auto: native where it can (in 8 bits '
         'where the bundle records that little is lost), else onnxruntime',
         choices=ENGINES),
    Spec('device', 'cpu', 'Where it runs', choices=('cpu', 'cuda', 'tensorrt')),
    Spec('threads', 1, 'Threads of the engine, 0 for its own choice', 0, MAX_THREADS),
    Spec('reliable', False, 'Reliable features and replies: for wires, or payloads above 16 KB'),
    Spec('class_id_format', 'name', 'What class_id holds', choices=('name', 'index')),
)  # fmt: skip

HEAD = (
    *_MODEL,
    Spec('cameras', [''], "Names of the cameras; 'front' reads front/image. Empty: one, on image",
         form=_NAMES),
    Spec('image_transport', 'raw', 'Which image topic is read', choices=('raw', 'compressed')),
    Spec('roi', [0, 0, 0, 0], 'Part to classify: x, y, width, height in pixels; zeros: all',
         live=True, form=_REGION),
    Spec('policy', 'auto', 'What decides per frame where to split and when to ask; auto: joint '
         'where the bundle brings calibration and neither split nor threshold is set, else fixed',
         choices=('auto', *POLICIES), live=True),
    Spec('split', -1, "For fixed: stage after which features travel, the last: all local, -1: the "
         "bundle's", -1, 254, live=True),
    Spec('threshold', -1.0, "For fixed and the SplitEE family: confidence from which the robot "
         "answers itself, -1: the bundle's", -1.0, 1.0, live=True),
    Spec('codec', '', "Coding of the features, empty: the bundle's, for joint its own choice",
         choices=('', *CODECS), live=True),
    Spec('target_disagreement', 0.01, 'For joint: share of answers that may differ from what the '
         'full, uncompressed network would say', 1e-4, 0.5, live=True),
    Spec('cost_weights', 'latency', 'For joint: what counts as cost', choices=tuple(WEIGHTS),
         live=True),
    Spec('audit_budget', 0.02, 'For joint: share of frames that may be sent only to learn; five '
         'times as many for a while after a change', 0.0, 0.2, live=True),
    Spec('all_local', True, 'The robot holds every stage and may compute everything itself'),
    Spec('policy_state', '', 'Directory in which the policy keeps what it learned, empty: nowhere'),
    Spec('robot_profile', 1.0, 'SIMULATION: make this robot so many times slower', 1.0, 1000.0),
    Spec('deadline_ms', 100.0, 'Answer at the latest this long after the image arrived, in ms',
         1.0, 60_000.0, live=True),
    Spec('max_results', 5, 'Most classes in one classification, 0 for all', 0, 65_536, live=True),
    Spec('max_in_flight', 64, 'Most frames that wait for the tail', 1, 4096),
    Spec('seed', 0, 'Seed of the random audits', 0, 2**31 - 1),
    Spec('no_image_warning_s', 5.0, 'Warn after this long without an image, in s', 0.1, 3600.0),
)  # fmt: skip

TAIL = (
    *_MODEL,
    Spec(
        'robots',
        [''],
        "Names of the robots; 'r1' reads r1/features. Empty: one, on features",
        form=_NAMES,
    ),
    Spec('queue', 16, 'Most frames that wait per robot, the oldest goes first', 1, 4096),
    Spec('max_batch', 16, 'Most frames in one run of the network', 1, 1024),
    Spec('max_results', 5, 'Most classes in one classification, 0 for all', 0, 65_536, live=True),
)

PLAYER = (
    Spec('source', '', "A bag, image folder, video, GTSRB, .npz, /dev/video0, or 'drive'"),
    Spec('image_topic', '', "Image topic of a bag, empty: the only one"),
    Spec('rate', 1.0, 'Speed against the recorded one', 0.01, 1000.0),
    Spec('loop', False, 'Start again at the end'),
    Spec('limit', 0, 'Stop after this many frames, 0 for all', 0, 2**31 - 1),
    Spec('subscribers', 1, 'Wait for this many subscribers before the first frame', 0, 64),
    Spec('wait_s', 10.0, 'Give up waiting for them after this long, in s', 0.0, 3600.0),
    Spec('stamps', 'source', "Stamps as recorded, or the time of playing",
         choices=('source', 'now')),
)  # fmt: skip


# Beside the parameters of ours, every ROS 2 node has these.
_OF_ROS = ('use_sim_time', 'start_type_description_service', 'qos_overrides')


def unknown(names: Iterable[str], specs: Sequence[Spec]) -> list[str]:
    """Those that are no parameter of a node, quoted, each with the one that may be meant."""
    known = [spec.name for spec in specs]
    strange = [name for name in names if name not in known and name.split('.')[0] not in _OF_ROS]
    meant = {name: difflib.get_close_matches(name, known, 1) for name in strange}
    return [
        f'{name!r}' + ''.join(f' (is it {each!r}?)' for each in meant[name]) for name in strange
    ]


class Parameters:
    """The declared parameters of a node, as attributes.

    ``accept`` may refuse a set of live changes with a reason before any of them is taken, by
    raising ValueError; it gets the values as they would be.
    """

    def __init__(
        self,
        node: Node,
        specs: Sequence[Spec],
        accept: Callable[[dict[str, Any]], None] = lambda values: None,
    ) -> None:
        self._specs = {spec.name: spec for spec in specs}
        self._accept = accept
        self._values: dict[str, Any] = {}
        for spec in specs:
            value = node.declare_parameter(spec.name, spec.default, spec.descriptor()).value
            if value is None:  # as rclpy takes an empty list
                raise ValueError(
                    f'parameter {spec.name} is empty, expected a value such as {spec.default!r}'
                )
            self._check(spec, value)
            self._values[spec.name] = _plain(value)
        # Not refused: one file may serve nodes of other packages, by /** or one name.
        if strange := unknown(sorted(node._parameter_overrides), specs):
            node.get_logger().warning(
                f'set, but no parameter of this node, and without effect: {", ".join(strange)}'
            )
        node.add_on_set_parameters_callback(self._on_set)

    def __getattr__(self, name: str) -> Any:
        try:
            return self.__dict__['_values'][name]
        except KeyError:
            raise AttributeError(f'no parameter {name!r} is declared') from None

    @property
    def values(self) -> dict[str, Any]:
        """All values by name, a copy."""
        return dict(self._values)

    def _on_set(self, parameters: list[Parameter]) -> SetParametersResult:
        changed = dict(self._values)
        try:
            for parameter in parameters:
                spec = self._specs.get(parameter.name)
                if spec is not None:
                    self._check(spec, parameter.value)
                    changed[parameter.name] = _plain(parameter.value)
            if changed != self._values:  # of ROS's own, which come this way too, none is ours
                self._accept(changed)
        except ValueError as error:
            return SetParametersResult(successful=False, reason=str(error))
        # Humble has no callback after the set; ours is the only one before it, so this is safe.
        self._values = changed
        return SetParametersResult(successful=True)

    @staticmethod
    def _check(spec: Spec, value: Any) -> None:
        if spec.choices and value not in spec.choices:
            raise ValueError(f'parameter {spec.name} is {value!r}, choose one of {spec.choices}')
        if spec.form is not None and not spec.form.holds(value):
            raise ValueError(
                f'parameter {spec.name} is {list(value)}, expected {spec.form.expected}'
            )


def _plain(value: Any) -> Any:
    """Arrays as lists: rclpy hands out ``array.array``, which compares and prints differently."""
    return (
        list(value) if not isinstance(value, (str, bytes)) and hasattr(value, '__len__') else value
    )
