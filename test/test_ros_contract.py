# Copyright 2026 The sparse_split_ros authors
# SPDX-License-Identifier: Apache-2.0
"""What nodes may rely on: one suite against `ros.py`, for the embedded runtime and real rclpy.

The suite runs on the runtime of this process; its last test runs it again on the other one.
"""

from __future__ import annotations

import contextlib
import gc
import itertools
import os
import signal
import subprocess
import sys
import threading
import time
from array import array
from importlib.util import find_spec
from pathlib import Path
from runpy import run_path
from typing import TYPE_CHECKING, Any
from unittest.mock import MagicMock

import numpy as np
import pytest

os.environ.setdefault('ROS_AUTOMATIC_DISCOVERY_RANGE', 'LOCALHOST')

from sparse_split_ros import ros
from sparse_split_ros.data.bags import Frame, write_bag
from sparse_split_ros.ros import (
    Clock,
    ClockMsg,
    ClockType,
    CompressedImage,
    Context,
    DiagnosticArray,
    DiagnosticStatus,
    DurabilityPolicy,
    Duration,
    ExternalShutdownException,
    FloatingPointRange,
    HistoryPolicy,
    IntegerRange,
    InvalidHandle,
    InvalidNodeNameException,
    InvalidParameterTypeException,
    InvalidParameterValueException,
    InvalidQoSProfileException,
    InvalidTopicNameException,
    LoggingSeverity,
    Node,
    NotInitializedException,
    Parameter,
    ParameterAlreadyDeclaredException,
    ParameterDescriptor,
    ParameterNotDeclaredException,
    ParameterUninitializedException,
    QoSOverridingOptions,
    QoSProfile,
    RCLError,
    ReliabilityPolicy,
    SetParametersResult,
    SingleThreadedExecutor,
    String,
    Time,
    TimeMsg,
    UnknownROSArgsError,
    deserialize_message,
    qos_profile_sensor_data,
    serialize_message,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

PATIENCE = 10.0
LATCHED = QoSProfile(depth=2, durability=DurabilityPolicy.TRANSIENT_LOCAL)
BEST_EFFORT = QoSProfile(depth=5, reliability=ReliabilityPolicy.BEST_EFFORT)
# None of those that other tests of this process choose (`processes.py`).
_domains = (40 + number % 62 for number in itertools.count(os.getpid() * 13))


class World:
    """One context in a domain of its own, its nodes and an executor."""

    def __init__(self, args: list[str]) -> None:
        self.context = Context()
        self.domain = next(_domains)
        ros.init(args=args, context=self.context, domain_id=self.domain)
        self.executor = SingleThreadedExecutor(context=self.context)

    def node(self, name: str = 'node', **options: object) -> Node:
        node = Node(name, context=self.context, **options)  # type: ignore[arg-type]
        self.executor.add_node(node)
        return node

    def spin_until(self, condition: Callable[[], object], patience: float = PATIENCE) -> None:
        end = time.monotonic() + patience
        while not condition():
            assert time.monotonic() < end, 'waited in vain'
            self.executor.spin_once(timeout_sec=0.02)

    def spin_for(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            self.executor.spin_once(timeout_sec=0.01)


@pytest.fixture
def make_world() -> Iterator[Callable[..., World]]:
    worlds: list[World] = []

    def make(*ros_args: str) -> World:
        worlds.append(World(['test', '--ros-args', *ros_args] if ros_args else ['test']))
        return worlds[-1]

    yield make
    for world in worlds:
        for node in world.executor.get_nodes():
            node.destroy_node()
        world.executor.shutdown()
        world.context.try_shutdown()


@pytest.fixture
def world(make_world: Callable[..., World]) -> World:
    return make_world()


def matched(publisher: ros.Publisher) -> Callable[[], bool]:
    return lambda: publisher.get_subscription_count() > 0


# Messages


def test_messages_have_defaults_keywords_and_fixed_fields() -> None:
    msg = CompressedImage(format='sparse_split/1')
    assert (msg.header.stamp.sec, msg.header.frame_id, len(msg.data)) == (0, '', 0)
    assert isinstance(msg.data, array)
    with pytest.raises(AttributeError):
        msg.fromat = 'x'  # type: ignore[attr-defined]
    with pytest.raises(TypeError):
        String('positional')  # type: ignore[misc]


def test_byte_fields_are_bytes() -> None:
    status = DiagnosticStatus(level=DiagnosticStatus.ERROR)
    assert status.level == DiagnosticStatus.ERROR == b'\x02'
    copy = deserialize_message(serialize_message(DiagnosticArray(status=[status])), DiagnosticArray)
    assert copy.status[0].level == b'\x02'


def test_cdr_round_trip_keeps_every_field() -> None:
    msg = CompressedImage(format='é', data=array('B', range(256)))
    msg.header.stamp = TimeMsg(sec=-1, nanosec=999_999_999)
    assert deserialize_message(serialize_message(msg), CompressedImage) == msg


# Topics


def test_a_message_arrives_as_it_was_sent(world: World) -> None:
    node, got = world.node(), []
    publisher = node.create_publisher(CompressedImage, 'photo', 10)
    node.create_subscription(CompressedImage, 'photo', got.append, 10)
    world.spin_until(matched(publisher))
    sent = CompressedImage(format='x', data=array('B', bytes(70_000)))
    publisher.publish(sent)
    world.spin_until(lambda: got)
    assert got == [sent]


def test_order_is_kept_within_the_depth(world: World) -> None:
    node, got = world.node(), []
    publisher = node.create_publisher(String, 'chatter', 50)
    node.create_subscription(String, 'chatter', lambda msg: got.append(msg.data), 50)
    world.spin_until(matched(publisher))
    for number in range(50):
        publisher.publish(String(data=str(number)))
    world.spin_until(lambda: len(got) == 50)
    assert got == [str(number) for number in range(50)]


def test_depth_keeps_the_newest(world: World) -> None:
    node, got = world.node(), []
    publisher = node.create_publisher(String, 'chatter', 1)
    node.create_subscription(String, 'chatter', lambda msg: got.append(msg.data), 1)
    world.spin_until(matched(publisher))
    for number in range(20):
        publisher.publish(String(data=str(number)))
    world.spin_until(lambda: '19' in got)
    assert len(got) < 20


def test_raw_subscription_and_bytes_publisher_carry_cdr(world: World) -> None:
    node, got = world.node(), []
    publisher = node.create_publisher(String, 'chatter', 10)
    node.create_subscription(String, 'chatter', got.append, 10, raw=True)
    world.spin_until(matched(publisher))
    publisher.publish(serialize_message(String(data='abc')))
    world.spin_until(lambda: got)
    assert isinstance(got[0], bytes)
    assert deserialize_message(got[0], String) == String(data='abc')


def test_late_joiner_gets_the_last_depth_messages_of_a_latched_topic(world: World) -> None:
    node, got = world.node(), []
    publisher = node.create_publisher(String, 'status', LATCHED)
    for text in 'abc':
        publisher.publish(String(data=text))
    late = world.node('late')
    late.create_subscription(String, 'status', lambda msg: got.append(msg.data), LATCHED)
    world.spin_until(lambda: len(got) == 2)
    assert got == ['b', 'c']


def test_best_effort_publisher_does_not_reach_a_reliable_subscription(
    world: World, capfd: pytest.CaptureFixture[str]
) -> None:
    node, got = world.node(), []
    publisher = node.create_publisher(String, 'chatter', BEST_EFFORT)
    node.create_subscription(String, 'chatter', got.append, 10)
    hears = world.node('hears').create_publisher(String, 'chatter', 10)
    world.spin_until(matched(hears))
    publisher.publish(String(data='lost'))
    hears.publish(String(data='kept'))
    world.spin_until(lambda: got)
    assert got == [String(data='kept')]
    assert publisher.get_subscription_count() == 0
    world.spin_until(lambda: 'incompatible' in capfd.readouterr().err)


def test_publishing_is_safe_from_many_threads(world: World) -> None:
    node, got = world.node(), []
    qos = QoSProfile(depth=1000)
    publisher = node.create_publisher(String, 'chatter', qos)
    node.create_subscription(String, 'chatter', lambda msg: got.append(msg.data), qos)
    world.spin_until(matched(publisher))

    def work(worker: int) -> None:
        for number in range(50):
            publisher.publish(String(data=f'{worker} {number}'))

    threads = [threading.Thread(target=work, args=(worker,)) for worker in range(4)]
    for thread in threads:
        thread.start()
    world.spin_until(lambda: len(got) == 200)
    for thread in threads:
        thread.join()
    assert len(set(got)) == 200


def test_publishing_the_wrong_type_is_a_type_error(world: World) -> None:
    publisher = world.node().create_publisher(String, 'chatter', 10)
    with pytest.raises(TypeError):
        publisher.publish(CompressedImage())  # type: ignore[arg-type]


def test_a_destroyed_publisher_refuses(world: World) -> None:
    node = world.node()
    publisher = node.create_publisher(String, 'chatter', 10)
    assert node.destroy_publisher(publisher)
    with pytest.raises(InvalidHandle):
        publisher.publish(String())


def test_a_destroyed_subscription_stays_silent(world: World) -> None:
    node, first, second = world.node(), [], []
    publisher = node.create_publisher(String, 'chatter', 10)
    gone = node.create_subscription(String, 'chatter', first.append, 10)
    node.create_subscription(String, 'chatter', second.append, 10)
    world.spin_until(lambda: publisher.get_subscription_count() == 2)
    assert node.destroy_subscription(gone)
    publisher.publish(String())
    world.spin_until(lambda: second)
    assert not first


def test_a_callback_may_destroy_its_own_subscription(world: World) -> None:
    node, got = world.node(), []
    publisher = node.create_publisher(String, 'chatter', 10)

    def once(msg: String) -> None:
        got.append(msg)
        node.destroy_subscription(subscription)

    subscription = node.create_subscription(String, 'chatter', once, 10)
    world.spin_until(matched(publisher))
    publisher.publish(String())
    publisher.publish(String())
    world.spin_until(lambda: got)
    world.spin_for(0.1)
    assert len(got) == 1


# Names


@pytest.mark.parametrize(
    ('args', 'topic', 'expected'),
    [
        ((), 'picture', '/robot/picture'),
        ((), '/picture', '/picture'),
        ((), '~/picture', '/robot/head/picture'),
        ((), 'tail/reply', '/robot/tail/reply'),
        (('-r', 'picture:=camera/picture'), 'picture', '/robot/camera/picture'),
        (('-r', 'picture:=/camera/picture'), 'picture', '/camera/picture'),
        (('-r', '/robot/picture:=other'), 'picture', '/robot/other'),
        (('-r', '~/picture:=other'), '~/picture', '/robot/other'),
        (('-r', 'head:picture:=mine'), 'picture', '/robot/mine'),
        (('-r', 'tail:picture:=theirs'), 'picture', '/robot/picture'),
        (('-r', '__ns:=/elsewhere'), 'picture', '/elsewhere/picture'),
        (('-r', '__node:=front'), '~/picture', '/robot/front/picture'),
        (
            ('-r', 'a:=b', '-r', 'picture:=first', '-r', 'picture:=second'),
            'picture',
            '/robot/first',
        ),
    ],
)
def test_topic_names_expand_and_remap(
    make_world: Callable[..., World], args: tuple[str, ...], topic: str, expected: str
) -> None:
    node = make_world(*args).node('head', namespace='robot')
    assert node.resolve_topic_name(topic) == expected
    assert node.create_publisher(String, topic, 10).topic_name == expected


def test_bad_names_are_refused(world: World) -> None:
    with pytest.raises(InvalidNodeNameException):
        world.node('two words')
    node = world.node()
    for topic in ('', 'with space', 'a//b', '/ends/', '1st', 'a~b'):
        with pytest.raises((InvalidTopicNameException, ValueError)):
            node.create_publisher(String, topic, 10)


def test_a_name_may_have_two_underscores_and_a_topic_two_types(world: World) -> None:
    node, got = world.node(), []
    name = node.create_publisher(String, 'cam__left', 10).topic_name
    assert name == '/cam__left'
    text = node.create_publisher(String, 'both', 10)
    clock = node.create_publisher(ClockMsg, 'both', 10)
    node.create_subscription(String, 'both', got.append, 10)
    node.create_subscription(ClockMsg, 'both', got.append, 10)
    world.spin_until(lambda: text.get_subscription_count() and clock.get_subscription_count())
    text.publish(String(data='a'))
    clock.publish(ClockMsg(clock=TimeMsg(sec=3)))
    world.spin_until(lambda: len(got) >= 2)
    assert {type(message) for message in got} == {String, ClockMsg}


def test_rules_for_a_namespace_know_a_node_by_its_new_name(
    make_world: Callable[..., World],
) -> None:
    world = make_world(
        '-r', '__node:=other', '-r', 'other:__ns:=/x', '-r', 'rosservice://image:=/c'
    )
    assert world.node('head').get_fully_qualified_name() == '/x/other'


def test_a_node_that_nobody_destroyed_leaves_the_graph(world: World) -> None:
    watcher = world.node('watcher')

    def use() -> None:
        node = Node('dropped', context=world.context)
        node.create_publisher(String, 'chatter', 10)
        node.create_subscription(String, 'chatter', print, 10)

    class Failing(Node):
        def __init__(self) -> None:
            super().__init__('failing', context=world.context)
            self.create_publisher(String, 'chatter', 10)
            raise LookupError('no camera')

    use()
    with pytest.raises(LookupError):
        Failing()
    gc.collect()
    world.spin_until(lambda: watcher.get_node_names() == ['watcher'])
    world.spin_until(lambda: not watcher.count_publishers('/chatter'))
    world.spin_until(lambda: not watcher.count_subscribers('/chatter'))


def test_a_node_knows_its_names(world: World) -> None:
    node = world.node('head', namespace='/robot')
    assert (node.get_name(), node.get_namespace()) == ('head', '/robot')
    assert node.get_fully_qualified_name() == '/robot/head'
    assert node.get_logger().name == 'robot.head'


# Parameters


def test_parameters_declare_get_and_set(world: World) -> None:
    node = world.node()
    assert node.declare_parameter('threshold', 0.9).value == 0.9
    assert node.has_parameter('threshold')
    assert node.get_parameter('threshold').type_ == Parameter.Type.DOUBLE
    assert node.set_parameters([Parameter('threshold', value=0.5)])[0].successful
    assert node.get_parameter('threshold').value == 0.5
    assert node.get_parameter_or('other', Parameter('other', value=3)).value == 3


def test_undeclared_and_doubly_declared_parameters_are_errors(world: World) -> None:
    node = world.node()
    node.declare_parameter('known', 1)
    with pytest.raises(ParameterNotDeclaredException):
        node.get_parameter('unknown')
    with pytest.raises(ParameterNotDeclaredException):
        node.set_parameters([Parameter('unknown', value=1)])
    with pytest.raises(ParameterAlreadyDeclaredException):
        node.declare_parameter('known', 2)


def test_a_parameter_keeps_its_type(world: World) -> None:
    node = world.node()
    node.declare_parameter('count', 1)
    result = node.set_parameters([Parameter('count', value='one')])[0]
    assert not result.successful
    assert 'type' in result.reason
    with pytest.raises(InvalidParameterTypeException):
        world.node('other', parameter_overrides=[Parameter('x', value=1)]).declare_parameter(
            'x', ''
        )


def test_a_typed_parameter_without_value_is_uninitialised(world: World) -> None:
    node = world.node()
    node.declare_parameter('bundle', Parameter.Type.STRING)
    with pytest.raises(ParameterUninitializedException):
        node.get_parameter('bundle')
    node.set_parameters([Parameter('bundle', value='gtsrb32')])
    assert node.get_parameter('bundle').value == 'gtsrb32'
    node.declare_parameter('unset', Parameter.Type.INTEGER)
    assert node.get_parameter_or('unset', Parameter('unset', value=3)).value == 3
    with pytest.raises(ParameterNotDeclaredException):
        node.undeclare_parameter('unheard')


@pytest.mark.filterwarnings('ignore')
def test_a_parameter_may_be_declared_by_its_name_alone(make_world: Callable[..., World]) -> None:
    node = make_world('-p', 'given:=1').node()
    assert node.declare_parameter('given').value == 1
    node.declare_parameter('nothing')
    assert node.get_parameter('nothing').value is None


@pytest.mark.parametrize(
    ('value', 'good'), [(0, True), (10, True), (4, True), (5, False), (12, False)]
)
def test_integer_ranges_and_steps_hold(world: World, value: int, good: bool) -> None:
    node = world.node()
    limits = IntegerRange(from_value=0, to_value=10, step=2)
    node.declare_parameter('depth', 2, ParameterDescriptor(integer_range=[limits]))
    assert node.set_parameters([Parameter('depth', value=value)])[0].successful == good


def test_floating_point_ranges_hold_at_declaration_too(world: World) -> None:
    node = world.node(parameter_overrides=[Parameter('threshold', value=1.5)])
    limits = FloatingPointRange(from_value=0.0, to_value=1.0)
    descriptor = ParameterDescriptor(floating_point_range=[limits])
    with pytest.raises(InvalidParameterValueException, match='out of range'):
        node.declare_parameter('threshold', 0.5, descriptor)


def test_read_only_parameters_take_an_override_but_no_change(world: World) -> None:
    node = world.node(parameter_overrides=[Parameter('bundle', value='mine')])
    assert node.declare_parameter('bundle', '', ParameterDescriptor(read_only=True)).value == 'mine'
    result = node.set_parameters([Parameter('bundle', value='other')])[0]
    assert not result.successful
    assert 'read-only' in result.reason


def test_set_callbacks_can_refuse_with_a_reason(world: World) -> None:
    node, seen = world.node(), []

    def check(parameters: list[Parameter]) -> SetParametersResult:
        seen.extend(parameter.value for parameter in parameters)
        return SetParametersResult(successful=parameters[0].value < 5, reason='at most 4')

    node.declare_parameter('depth', 1)
    node.add_on_set_parameters_callback(check)
    assert node.set_parameters([Parameter('depth', value=4)])[0].successful
    refused = node.set_parameters([Parameter('depth', value=9)])[0]
    assert (refused.successful, refused.reason) == (False, 'at most 4')
    assert (node.get_parameter('depth').value, seen) == (4, [4, 9])
    node.remove_on_set_parameters_callback(check)
    assert node.set_parameters([Parameter('depth', value=9)])[0].successful


def test_atomic_set_changes_all_or_nothing(world: World) -> None:
    node = world.node()
    node.declare_parameters('group', [('a', 1), ('b', 2, ParameterDescriptor(read_only=True))])
    result = node.set_parameters_atomically(
        [Parameter('group.a', value=9), Parameter('group.b', value=9)]
    )
    assert not result.successful
    assert {name: p.value for name, p in node.get_parameters_by_prefix('group').items()} == {
        'a': 1,
        'b': 2,
    }


def test_parameters_come_from_the_command_line(make_world: Callable[..., World]) -> None:
    world = make_world(
        '-p', 'number:=3', '-p', 'ratio:=1e-3', '-p', 'text:=stop', '-p', 'flag:=true',
        '-p', 'list:=[1, 2]', '-p', 'other:number:=7',
    )  # fmt: skip
    node = world.node()
    defaults = {'number': 0, 'ratio': 0.5, 'text': '', 'flag': False, 'list': [0]}
    values = [node.declare_parameter(name, value).value for name, value in defaults.items()]
    assert [list(v) if name == 'list' else v for name, v in zip(defaults, values)] == [
        3, 0.001, 'stop', True, [1, 2],
    ]  # fmt: skip
    assert world.node('other').declare_parameter('number', 0).value == 7


@pytest.mark.parametrize('text', ['2026-11-02', '2026_11_02', '12:30', '2026-13-45', '~', '='])
def test_what_yaml_takes_for_dates_are_texts(
    make_world: Callable[..., World], tmp_path: Path, text: str
) -> None:
    file = tmp_path / 'params.yaml'
    file.write_text(f'/**:\n  ros__parameters: {{written: {text}}}\n', encoding='utf-8')
    node = make_world('-p', f'said:={text}', '--params-file', str(file)).node()
    assert node.declare_parameter('said', '').value == text
    assert node.declare_parameter('written', '').value == text


def test_a_node_may_come_twice_in_a_parameter_file(
    make_world: Callable[..., World], tmp_path: Path
) -> None:
    file = tmp_path / 'params.yaml'
    block = '/**/node:\n  ros__parameters:\n'
    file.write_text(
        f'{block}    first: 1\n    both: 1\n{block}    second: y\n    both: 2\n', encoding='utf-8'
    )
    node = make_world('--params-file', str(file)).node()
    values = {'first': 0, 'second': False, 'both': 0}
    assert [node.declare_parameter(*each).value for each in values.items()] == [1, True, 2]


def test_parameter_files_match_nodes_by_name_and_wildcard(
    make_world: Callable[..., World], tmp_path: Path
) -> None:
    file = tmp_path / 'params.yaml'
    file.write_text(
        '/**:\n  ros__parameters:\n    everywhere: 1\n    nested: {inner: deep}\n'
        '/robot/head:\n  ros__parameters:\n    exact: 2\n    everywhere: 5\n'
        '/*/tail:\n  ros__parameters:\n    wild: 3\n'
        'robot:\n  head:\n    ros__parameters:\n      spaced: 4\n',
        encoding='utf-8',
    )
    world = make_world('--params-file', str(file))
    head, tail = world.node('head', namespace='/robot'), world.node('tail', namespace='/robot')
    names = ('everywhere', 'exact', 'wild', 'spaced')
    assert [head.declare_parameter(name, 0).value for name in names] == [5, 2, 0, 4]
    assert [tail.declare_parameter(name, 0).value for name in names] == [1, 0, 3, 0]
    assert tail.declare_parameter('nested.inner', '').value == 'deep'


def test_unknown_ros_arguments_are_an_error() -> None:
    with pytest.raises(UnknownROSArgsError, match='nonsense'):
        ros.init(args=['test', '--ros-args', '--nonsense'], context=Context())


# Quality of service


def test_a_profile_needs_a_depth() -> None:
    with pytest.raises(InvalidQoSProfileException):
        QoSProfile()
    with pytest.raises(InvalidQoSProfileException):
        QoSProfile(history=HistoryPolicy.KEEP_LAST)
    assert QoSProfile(depth=3).reliability == ReliabilityPolicy.RELIABLE
    assert qos_profile_sensor_data.reliability == ReliabilityPolicy.BEST_EFFORT


def test_qos_overrides_are_read_only_parameters(make_world: Callable[..., World]) -> None:
    name = 'qos_overrides./picture.subscription'
    world = make_world('-p', f'{name}.reliability:=reliable', '-p', f'{name}.depth:=7')
    node = world.node()
    node.create_subscription(
        String, '/picture', print, BEST_EFFORT,
        qos_overriding_options=QoSOverridingOptions.with_default_policies(),
    )  # fmt: skip
    assert node.get_parameter(f'{name}.depth').value == 7
    assert not node.set_parameters([Parameter(f'{name}.depth', value=8)])[0].successful
    world.spin_until(lambda: node.count_subscribers('/picture') == 1)
    (info,) = node.get_subscriptions_info_by_topic('/picture')
    assert info.qos_profile.reliability == ReliabilityPolicy.RELIABLE


# Time


def test_timers_on_a_steady_clock_keep_their_period(world: World) -> None:
    calls: list[float] = []
    clock = Clock(clock_type=ClockType.STEADY_TIME)
    timer = world.node().create_timer(0.02, lambda: calls.append(time.monotonic()), clock=clock)
    world.spin_until(lambda: len(calls) == 20)
    assert 0.36 < calls[-1] - calls[0] < 0.6
    timer.cancel()
    assert timer.is_canceled()
    world.spin_for(0.06)
    assert len(calls) == 20
    timer.reset()
    world.spin_until(lambda: len(calls) == 21)


def test_a_slow_callback_skips_periods_instead_of_piling_up(world: World) -> None:
    calls: list[float] = []

    def slow() -> None:
        calls.append(time.monotonic())
        if len(calls) == 1:
            time.sleep(0.2)

    world.node().create_timer(0.02, slow)
    world.spin_until(lambda: calls)
    world.spin_for(0.1)
    assert len(calls) <= 8


def test_simulated_time_follows_the_clock_topic(world: World) -> None:
    driver = world.node('driver')
    node = world.node(parameter_overrides=[Parameter('use_sim_time', value=True)])
    assert node.get_parameter('use_sim_time').value is True
    calls: list[int] = []
    node.create_timer(1.0, lambda: calls.append(node.get_clock().now().nanoseconds))
    clock = driver.create_publisher(ClockMsg, '/clock', 10)
    world.spin_until(matched(clock))

    def show(seconds: int) -> None:
        clock.publish(ClockMsg(clock=TimeMsg(sec=seconds)))
        world.spin_until(lambda: node.get_clock().now().nanoseconds == seconds * 10**9)
        world.spin_for(0.03)

    show(100)
    calls.clear()
    world.spin_for(0.05)
    assert not calls  # wall time passes, simulated time does not
    show(102)
    assert set(calls) == {102 * 10**9}
    assert len(calls) <= 2  # once for 101 s, once for 102 s
    assert driver.get_clock().now().nanoseconds > 10**18


def test_times_of_different_clocks_do_not_compare() -> None:
    steady = Time(seconds=1, clock_type=ClockType.STEADY_TIME)
    with pytest.raises(TypeError):
        _ = steady < Time(seconds=2, clock_type=ClockType.ROS_TIME)
    assert (steady + Duration(seconds=1.5)).nanoseconds == 2_500_000_000
    assert Time(seconds=3, nanoseconds=7).to_msg() == TimeMsg(sec=3, nanosec=7)
    assert Time.from_msg(TimeMsg(sec=3, nanosec=7)).nanoseconds == 3_000_000_007


# Executor


def test_a_worker_thread_wakes_the_executor(world: World) -> None:
    node, calls = world.node(), []
    guard = node.create_guard_condition(lambda: calls.append(time.monotonic()))
    world.spin_for(0.05)
    start = time.monotonic()
    threading.Timer(0.05, guard.trigger).start()
    world.executor.spin_once(timeout_sec=5.0)
    world.spin_until(lambda: calls)
    assert calls[0] - start < 0.5


def test_spin_once_returns_after_its_timeout(world: World) -> None:
    world.node()
    world.spin_for(0.05)
    start = time.monotonic()
    world.executor.spin_once(timeout_sec=0.1)
    assert 0.05 < time.monotonic() - start < 0.5


def test_an_exception_in_a_callback_reaches_the_spinner(world: World) -> None:
    def fail() -> None:
        raise KeyError('from a callback')

    world.node().create_timer(0.01, fail)
    with pytest.raises(KeyError, match='from a callback'):
        world.spin_for(5.0)


def test_shutting_the_context_down_ends_a_spin(world: World) -> None:
    world.node()
    threading.Timer(0.1, world.context.try_shutdown).start()
    start = time.monotonic()
    with contextlib.suppress(ExternalShutdownException):
        world.executor.spin()
    assert time.monotonic() - start < 2.0
    assert not world.context.ok()


def test_after_shutdown_nothing_can_be_published_or_created(world: World) -> None:
    node = world.node()
    publisher = node.create_publisher(String, 'chatter', 10)
    ros.shutdown(context=world.context)
    with pytest.raises((RCLError, InvalidHandle)):
        node.create_publisher(String, 'late', 10)
    with pytest.raises((RCLError, InvalidHandle)):
        node.create_subscription(String, 'late', print, 10)
    with pytest.raises((RCLError, InvalidHandle)):
        publisher.publish(String())
    with pytest.raises(NotInitializedException):
        Node('late', context=world.context)
    with pytest.raises(RuntimeError):
        ros.shutdown(context=world.context)


def test_creating_while_another_thread_spins_is_safe(world: World) -> None:
    node, got = world.node(), []

    def spin() -> None:
        with contextlib.suppress(ExternalShutdownException):
            world.executor.spin()

    thread = threading.Thread(target=spin)
    thread.start()
    publisher = node.create_publisher(String, 'chatter', 10)
    node.create_subscription(String, 'chatter', got.append, 10)
    end = time.monotonic() + PATIENCE
    while not got and time.monotonic() < end:
        publisher.publish(String(data='x'))
        time.sleep(0.01)
    node.destroy_node()
    ros.shutdown(context=world.context)
    thread.join(5.0)
    assert got
    assert not thread.is_alive()


# The graph


def test_the_graph_shows_endpoints_and_nodes(world: World) -> None:
    node = world.node('head', namespace='/robot')
    publisher = node.create_publisher(String, 'status', LATCHED)
    other = world.node('tail', namespace='/robot')
    other.create_subscription(String, 'status', print, LATCHED)
    world.spin_until(matched(publisher))
    # Endpoints and the nodes they belong to are announced apart, in any order.
    world.spin_until(lambda: other.count_publishers('/robot/status') == 1)
    world.spin_until(lambda: other.count_subscribers('status') == 1)
    for asker in (node, other):
        world.spin_until(lambda asker=asker: {'head', 'tail'} <= set(asker.get_node_names()))
    (info,) = other.get_publishers_info_by_topic('/robot/status')
    assert (info.node_name, info.node_namespace) == ('head', '/robot')
    assert info.topic_type == 'std_msgs/msg/String'
    assert info.qos_profile.durability == DurabilityPolicy.TRANSIENT_LOCAL
    assert ('/robot/status', ['std_msgs/msg/String']) in other.get_topic_names_and_types()
    assert ('head', '/robot') in node.get_node_names_and_namespaces()
    node.destroy_node()
    world.spin_until(lambda: other.count_publishers('/robot/status') == 0)
    world.spin_until(lambda: 'head' not in other.get_node_names())


# Logging


def test_log_lines_have_level_name_and_message(
    world: World, capfd: pytest.CaptureFixture[str]
) -> None:
    logger = world.node('head', namespace='/robot').get_logger()
    logger.debug('hidden')
    logger.warning('look out')
    lines = capfd.readouterr().err
    assert 'hidden' not in lines
    assert '[WARN] [' in lines
    assert '[robot.head]: look out' in lines


def test_log_filters(world: World, capfd: pytest.CaptureFixture[str]) -> None:
    logger = world.node().get_logger()
    for number in range(5):
        logger.info(f'once {number}', once=True)
        logger.info(f'skip {number}', skip_first=True)
        logger.info(f'throttle {number}', throttle_duration_sec=60.0)
    lines = capfd.readouterr().err
    assert [lines.count(word) for word in ('once', 'skip', 'throttle')] == [1, 4, 1]
    with pytest.raises(TypeError):
        logger.info('x', no_such_filter=True)


def test_log_level_is_an_argument_and_can_be_set(
    make_world: Callable[..., World], capfd: pytest.CaptureFixture[str]
) -> None:
    logger = make_world('--log-level', 'loud:=debug').node('loud').get_logger()
    logger.debug('shown')
    logger.set_level(LoggingSeverity.ERROR)
    logger.warning('hidden')
    lines = capfd.readouterr().err
    assert 'shown' in lines
    assert 'hidden' not in lines


# Processes

SPINNER = """
import sys
from sparse_split_ros import ros
ros.init()
node = ros.Node('spinner')
publisher = node.create_publisher(ros.String, 'chatter', 10)
timer = node.create_timer(0.01, lambda: (print('ready', flush=True), timer.cancel()))
# rclpy now and then misses the wake-up of a signal; a node without timers would wait for ever.
beat = node.create_timer(0.1, lambda: None)
try:
    ros.spin(node)
except (KeyboardInterrupt, ros.ExternalShutdownException):
    pass
except ros.RCLError:  # rclpy, when the signal comes while it prepares its next wait
    if ros.ok():
        raise
finally:
    node.destroy_node()
    ros.try_shutdown()
print('done', flush=True)
"""


@pytest.mark.parametrize('number', [signal.SIGINT, signal.SIGTERM])
def test_signals_end_a_process_quietly_within_two_seconds(number: signal.Signals) -> None:
    environment = {**os.environ, 'ROS_DOMAIN_ID': str(next(_domains))}
    process = subprocess.Popen(
        [sys.executable, '-c', SPINNER], env=environment, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    assert process.stdout is not None
    assert process.stdout.readline() == 'ready\n'
    process.send_signal(number)
    start = time.monotonic()
    out, err = process.communicate(timeout=10)
    assert time.monotonic() - start < 2.0
    assert (process.returncode, out) == (0, 'done\n'), err
    assert 'Traceback' not in err


# Launch files


Launch = dict[str, Any]


def launch_file(monkeypatch: pytest.MonkeyPatch, name: str, **given: str) -> tuple[Launch, Launch]:
    """What a launch file defines, and the stand-ins that it imports instead of ROS 2's."""
    parts = ('actions', 'event_handlers', 'events', 'launch_description_sources', 'substitutions')
    names = ['launch', *(f'launch.{part}' for part in parts), 'launch_ros', 'launch_ros.actions']
    fake = {name: MagicMock() for name in [*names, 'ament_index_python.packages']}
    fake['ament_index_python.packages'].get_package_share_directory.return_value = '/share'
    fake['launch.substitutions'].LaunchConfiguration = lambda name, default='': MagicMock(
        perform=lambda context: given.get(name, default)
    )
    for module, stand_in in fake.items():
        monkeypatch.setitem(sys.modules, module, stand_in)
    return run_path(str(Path(__file__).parents[1] / 'launch' / f'{name}.launch.py')), fake


@pytest.mark.parametrize(
    ('transport', 'topic'), [('raw', '/camera'), ('compressed', '/camera/compressed')]
)
def test_a_replay_plays_and_awaits_the_topic_that_the_head_reads(
    monkeypatch: pytest.MonkeyPatch, transport: str, topic: str
) -> None:
    replay, fake = launch_file(
        monkeypatch, 'replay', bag='flown', image='/camera', image_transport=transport
    )
    replay['play'](None)
    command = fake['launch.actions'].ExecuteProcess.call_args.kwargs['cmd']
    assert command[command.index('--topics') + 1] == topic
    node = fake['launch_ros.actions'].Node.call_args.kwargs
    assert node['parameters'] == [{'topics': [topic]}]
    replay['generate_launch_description']()
    included = fake['launch.actions'].IncludeLaunchDescription.call_args.kwargs
    assert 'image_transport' in dict(included['launch_arguments'])


@pytest.mark.parametrize(
    ('namespace', 'decision'), [('', '/decision'), ('r1', '/r1/decision'), ('/r1', '/r1/decision')]
)
def test_a_replay_that_is_recorded_awaits_the_recorder(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, namespace: str, decision: str
) -> None:
    given = {'image_transport': 'raw', 'namespace': namespace, 'record': str(tmp_path / 'bag')}
    replay, fake = launch_file(monkeypatch, 'replay', bag='flown', image='/camera', **given)
    replay['play'](None)
    node = fake['launch_ros.actions'].Node.call_args.kwargs
    assert node['parameters'] == [{'topics': ['/camera', decision]}]


@pytest.mark.parametrize(('namespace', 'space'), [('', ''), ('r1', '/r1'), ('/r1', '/r1')])
def test_the_truth_of_a_replay_is_where_its_robot_is(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, namespace: str, space: str
) -> None:
    frame = Frame(1, 'camera', np.zeros((2, 2, 3), np.uint8), label='stop', others={'full': 'no'})
    write_bag(tmp_path / 'flown', [frame])
    given = {'image_transport': 'raw', 'ground_truth': '/ground_truth', 'scene': '/day'}
    replay, fake = launch_file(
        monkeypatch, 'replay', bag=str(tmp_path / 'flown'), namespace=namespace, **given
    )
    replay['play'](None)
    command = fake['launch.actions'].ExecuteProcess.call_args.kwargs['cmd']
    assert command[command.index('--remap') + 1 :] == [
        f'/ground_truth:={space}/ground_truth',
        f'/day:={space}/scene',
        f'/ground_truth/full:={space}/ground_truth/full',
    ]
    topics = command[command.index('--topics') + 2 : command.index('--remap')]
    assert topics == ['/ground_truth', '/day', '/ground_truth/full']


def test_a_replay_is_not_recorded_over_another(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    there = str(tmp_path)
    replay, _ = launch_file(
        monkeypatch, 'replay', bag=there, record=there, image='/image', image_transport='raw'
    )
    with pytest.raises(ValueError, match='exists already'):
        replay['check'](None)


@pytest.mark.parametrize(
    ('bag', 'image', 'transport', 'refusal'),
    [
        ('flown', '/image', 'raw', ''),
        ('flown/flown.mcap', '/image', 'raw', ''),
        ('flown', '/image', 'compressed', 'no /image/compressed of .*CompressedImage.*/image '),
        ('flown', '/camera', 'raw', 'no /camera of sensor_msgs/msg/Image.* topics are: .*/image '),
        ('flown', '/image', 'jpeg', "image_transport is 'jpeg', choose one of raw, compressed"),
        ('lost', '/image', 'raw', 'lost does not exist'),
        ('damaged', '/image', 'raw', 'damaged has a damaged metadata.yaml: KeyError: '),
        ('cut', '/image', 'raw', r'damaged metadata.yaml: ParserError: while .*, line 2, [^\n]*$'),
    ],
)
def test_a_replay_of_nothing_is_refused_before_anything_starts(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    bag: str,
    image: str,
    transport: str,
    refusal: str,
) -> None:
    write_bag(tmp_path / 'flown', [Frame(1, 'camera', np.zeros((2, 2, 3), np.uint8))])
    for name, text in (('damaged', '{}'), ('cut', 'rosbag2_bagfile_information:\n  files: [a, b')):
        (tmp_path / name).mkdir()
        (tmp_path / name / 'metadata.yaml').write_text(text)
    replay, _ = launch_file(
        monkeypatch, 'replay', bag=str(tmp_path / bag), image=image, image_transport=transport
    )
    with pytest.raises(ValueError, match=refusal) if refusal else contextlib.nullcontext():
        assert replay['check'](None) == []


@pytest.mark.parametrize(
    ('changed', 'refusal'),
    [
        ({}, ''),
        ({'role': 'body'}, "role is 'body'"),
        ({'params_file': '/nowhere.yaml'}, 'params_file /nowhere.yaml is not a file'),
        ({'use_sim_time': 'maybe'}, "use_sim_time is 'maybe'"),
    ],
)
def test_what_split_cannot_start_is_refused(
    monkeypatch: pytest.MonkeyPatch, changed: dict[str, str], refusal: str
) -> None:
    given = {'role': 'both', 'params_file': __file__, 'use_sim_time': 'False', **changed}
    split, fake = launch_file(monkeypatch, 'split', **given)
    with pytest.raises(ValueError, match=refusal) if refusal else contextlib.nullcontext():
        assert len(split['nodes'](None)) == 2
        parameters = fake['launch_ros.actions'].Node.call_args.kwargs['parameters']
        assert parameters == [__file__, {'use_sim_time': False}]


def test_a_launched_recorder_is_told_the_heads_parameters(monkeypatch: pytest.MonkeyPatch) -> None:
    split, fake = launch_file(
        monkeypatch, 'split', role='head', params_file=__file__, record='flown'
    )
    split['nodes'](None)
    recorder = fake['launch_ros.actions'].Node.call_args.kwargs
    assert recorder['arguments'] == ['record', 'flown', '--head-parameters', __file__]
    split, fake = launch_file(
        monkeypatch, 'split', role='head', params_file=__file__, record='flown', tasks='full open'
    )
    split['nodes'](None)
    recorder = fake['launch_ros.actions'].Node.call_args.kwargs
    assert recorder['arguments'][-3:] == ['--tasks', 'full', 'open']


def test_the_contract_holds_on_the_other_runtime() -> None:
    if os.environ.get('SPARSE_SPLIT_CONTRACT_NESTED'):
        pytest.skip('this is the other runtime')
    other = 'rclpy' if ros.RUNTIME == 'embedded' else 'embedded'
    needs = 'rclpy' if other == 'rclpy' else 'rosbags'
    if find_spec(needs) is None:
        pytest.skip(f'{needs} is not installed: the suite ran on {ros.RUNTIME} only')
    environment = {
        **os.environ, 'SPARSE_SPLIT_RUNTIME': other, 'SPARSE_SPLIT_CONTRACT_NESTED': '1',
        'PYTEST_DISABLE_PLUGIN_AUTOLOAD': '1',
    }  # fmt: skip
    command = [sys.executable, '-m', 'pytest', '-q', '-p', 'no:cacheprovider', __file__]
    done = subprocess.run(command, env=environment, text=True, capture_output=True, check=False)
    assert done.returncode == 0, done.stdout[-6000:]
