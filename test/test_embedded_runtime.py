# Copyright 2026 The sparse_split_ros authors
# SPDX-License-Identifier: Apache-2.0
"""What only the embedded runtime has to promise: refusals, the network layers, a clean exit."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PROLOGUE = 'import os, sys, threading, time\nfrom sparse_split_ros import ros\n'
_next_domain = (os.getpid() * 17) % 100


def environment(**more: str) -> dict[str, str]:
    """Return an environment on this host alone, in a domain of its own."""
    global _next_domain  # noqa: PLW0603
    _next_domain = _next_domain % 100 + 1
    kept = {name: value for name, value in os.environ.items() if name != 'ROS_LOCALHOST_ONLY'}
    return {
        **kept,
        'PYTHONPATH': str(ROOT),
        'PYTHONWARNINGS': 'error',
        'ROS_AUTOMATIC_DISCOVERY_RANGE': 'LOCALHOST',
        'ROS_DOMAIN_ID': str(_next_domain),
        'SPARSE_SPLIT_RUNTIME': 'embedded',
        **more,
    }


def start(program: str, **more: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, '-c', PROLOGUE + program], env=environment(**more), text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


def run(program: str, timeout: float = 60, **more: str) -> subprocess.CompletedProcess[str]:
    """Run a program to its end; it must end by itself, quietly."""
    process = start(program, **more)
    try:
        out, err = process.communicate(timeout=timeout)
    finally:
        process.kill()
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)


def succeeds(program: str, **more: str) -> str:
    done = run(program, **more)
    assert (done.returncode, done.stderr) == (0, ''), done.stderr
    return done.stdout


TRANSPORTS = [
    pytest.param('dds', marks=pytest.mark.skipif(not find_spec('cyclonedds'), reason='no wheel')),
    pytest.param('zenoh', marks=pytest.mark.skipif(not find_spec('zenoh'), reason='no wheel')),
]


# Which runtime


def test_the_runtime_never_takes_the_name_rclpy() -> None:
    assert succeeds('print([name for name in sys.modules if name.startswith("rclpy")])') == '[]\n'


def test_an_unknown_runtime_is_refused() -> None:
    done = run('', SPARSE_SPLIT_RUNTIME='rospy')
    assert "'rospy'" in done.stderr
    assert 'auto, rclpy or embedded' in done.stderr


@pytest.mark.parametrize('chosen', ['auto', 'rclpy'])
def test_a_broken_rclpy_is_an_error_that_names_the_package(tmp_path: Path, chosen: str) -> None:
    (tmp_path / 'rclpy').mkdir()
    (tmp_path / 'rclpy' / '__init__.py').write_text('import _rclpy_pybind11\n')
    path = f'{tmp_path}{os.pathsep}{ROOT}'
    done = run('', SPARSE_SPLIT_RUNTIME=chosen, PYTHONPATH=path, ROS_DISTRO='jazzy')
    assert done.returncode == 1
    assert 'RosImportError' in done.stderr
    assert 'Install ros-jazzy-' in done.stderr


def test_auto_takes_the_embedded_runtime_where_there_is_no_rclpy() -> None:
    if find_spec('rclpy') is not None:
        pytest.skip('rclpy is installed here')
    assert succeeds('print(ros.RUNTIME)', SPARSE_SPLIT_RUNTIME='auto') == 'embedded\n'


# Refusals


def test_what_is_not_there_raises_at_once_and_says_what_to_do() -> None:
    out = succeeds("""
ros.init(args=[])
node = ros.Node('node')
assert not hasattr(node, 'create_service')
for call in (
    lambda: node.create_service(None, 'x', print),
    lambda: node.create_client(None, 'x'),
    lambda: node.create_rate(1.0),
    lambda: node.create_timer(1.0, print, callback_group=object()),
    lambda: node.get_clock().sleep_for(ros.Duration(seconds=1)),
):
    try:
        call()
    except NotImplementedError as error:
        print(error)
""")
    assert out.count('is not in the embedded runtime: install ROS 2') == 5
    for name in ('Node.create_service', 'create_timer(callback_group=...)', 'ROSClock.sleep_for'):
        assert name in out


@pytest.mark.parametrize(
    ('name', 'value'),
    [
        ('ROS_DOMAIN_ID', 'lab'), ('ROS_DOMAIN_ID', '500'),
        ('ROS_AUTOMATIC_DISCOVERY_RANGE', 'PLANET'), ('SPARSE_SPLIT_TRANSPORT', 'pigeon'),
    ],
)  # fmt: skip
def test_bad_settings_are_one_named_error(name: str, value: str) -> None:
    done = run("ros.init(args=[])\nros.Node('node')", **{name: value})
    assert done.returncode == 1
    assert f'{name} is {value!r}' in done.stderr


@pytest.mark.parametrize(
    ('args', 'reason'),
    [
        (['-p', 'novalue'], 'name:=value'),
        (['-p', 'x:=[1, a]'], 'a list of one kind'),
        (['-p', 'x:={a: 1}'], 'a list of one kind'),
        (['-p', 'x:="'], 'not YAML'),
        (['-r', 'a'], 'name:=value'),
        (['--params-file', '/no/such/file'], 'cannot read the parameter file'),
        (['--params-file', '/dev/null'], 'holds no nodes'),
        (['--log-level', 'chatty'], 'chatty'),
        (['-p'], 'needs a value'),
    ],
)
def test_bad_arguments_are_one_named_error(args: list[str], reason: str) -> None:
    from sparse_split_ros.embedded.exceptions import UnknownROSArgsError
    from sparse_split_ros.embedded.names import Arguments

    with pytest.raises(UnknownROSArgsError, match=reason):
        Arguments.parse(['--ros-args', *args])


@pytest.mark.skipif(not find_spec('cyclonedds'), reason='no wheel')
def test_a_quality_of_service_that_cannot_be_is_one_error() -> None:
    args = ['tail', '--ros-args', '-p', 'qos_overrides./features.subscription.depth:=3000000000']
    done = subprocess.run(
        [sys.executable, '-m', 'sparse_split_ros.cli', *args],
        env=environment(SPARSE_SPLIT_RUNTIME='embedded', SPARSE_SPLIT_TRANSPORT='dds'),
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode and 'Traceback' not in done.stderr
    assert 'error: /features with ' in done.stderr


@pytest.mark.parametrize(
    'key', ['graph', 'graph/N', 'graph/N/00/%', 'graph/P/zz/t/x/h/r/t/%/n', 'graph/Z/1', '']
)
@pytest.mark.skipif(not find_spec('zenoh'), reason='no wheel')
def test_a_token_of_somebody_else_is_none(key: str) -> None:
    from sparse_split_ros.embedded.zenoh import _parse_token

    assert _parse_token(f'sparse_split/0/{key}') is None


def test_an_interrupt_waits_for_the_library() -> None:
    from sparse_split_ros.embedded.interrupts import handle, undisturbed

    def interrupt(*_: object) -> None:
        handle(partial(signal.default_int_handler, signal.SIGINT, None))

    before, steps = signal.signal(signal.SIGINT, interrupt), []
    try:
        with pytest.raises(KeyboardInterrupt), undisturbed(), undisturbed():
            signal.raise_signal(signal.SIGINT)
            steps.append('inside')
        with undisturbed():
            steps.append('nothing left')
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    finally:
        signal.signal(signal.SIGINT, before)
    assert steps == ['inside', 'nothing left']


@pytest.mark.parametrize('transport', TRANSPORTS)
def test_an_executor_that_was_dropped_leaves_nothing(transport: str) -> None:
    succeeds(
        """
import gc
ros.init(args=[])
node, closed = ros.Node('node'), []
waiter = type(ros.SingleThreadedExecutor()._waiter)
gc.collect()
close = waiter.close
waiter.close = lambda self: (closed.append(self), close(self))
for count in range(1, 4):
    executor = ros.SingleThreadedExecutor()
    executor.add_node(node)
    executor.spin_once(timeout_sec=0)
    if count == 3:
        executor.shutdown()
    del executor
    gc.collect()
    assert len(closed) == count, closed
ros.shutdown()
""",
        SPARSE_SPLIT_TRANSPORT=transport,
    )


# Network layers

EXCHANGE = """
side = os.environ['SIDE']
other = {'a': 'b', 'b': 'a'}[side]
ros.init(args=[])
node = ros.Node(side, namespace='/pair')
latched = ros.QoSProfile(depth=3, durability=ros.DurabilityPolicy.TRANSIENT_LOCAL)
early, got = node.create_publisher(ros.String, f'latched/{side}', latched), []
for number in range(5):
    early.publish(ros.String(data=str(number)))
if side == 'b':
    time.sleep(float(os.environ['LATE']))
node.create_subscription(ros.String, f'latched/{other}', lambda msg: got.append(msg.data), latched)
image = ros.CompressedImage(format=side)
image.data.frombytes(bytes(range(256)) * 1000)
images = []
publisher = node.create_publisher(ros.CompressedImage, f'image/{side}', 10)
node.create_subscription(ros.CompressedImage, f'image/{other}', images.append, 10)
node.create_timer(0.05, lambda: publisher.publish(image))
done = node.create_publisher(ros.String, f'done/{side}', latched)
finished = []
node.create_subscription(ros.String, f'done/{other}', finished.append, latched)
end = time.monotonic() + 20
told = False
while not (finished and told) and time.monotonic() < end:
    ros.spin_once(node, timeout_sec=0.05)
    if not told and len(got) >= 3 and images and other in node.get_node_names():
        # While the other is still there: it may leave once it was told.
        (info,) = node.get_publishers_info_by_topic(f'latched/{other}')
        done.publish(ros.String(data='done'))
        told = True
assert got[-3:] == ['2', '3', '4'] and len(set(got)) == len(got), got
assert images[0].data == image.data and images[0].format == other
assert (info.node_name, info.node_namespace) == (other, '/pair'), info
assert ros.runtime_notes(node)
ros.spin_once(node, timeout_sec=0.5)
node.destroy_node()
ros.shutdown()
"""


@pytest.mark.parametrize('late', ['0', '0.7'])
@pytest.mark.parametrize('transport', TRANSPORTS)
def test_two_processes_exchange_latched_and_large_messages(transport: str, late: str) -> None:
    shared = environment(SPARSE_SPLIT_TRANSPORT=transport, LATE=late)
    sides = [start(EXCHANGE, **{**shared, 'SIDE': side}) for side in 'ab']
    for side in sides:
        _, err = side.communicate(timeout=60)
        assert (side.returncode, err) == (0, '')


def test_the_contract_holds_over_zenoh_too() -> None:
    if not find_spec('zenoh'):
        pytest.skip('eclipse-zenoh is not installed')
    command = [
        sys.executable, '-m', 'pytest', '-q', '-p', 'no:cacheprovider',
        str(Path(__file__).with_name('test_ros_contract.py')),
    ]  # fmt: skip
    more = environment(
        SPARSE_SPLIT_TRANSPORT='zenoh', SPARSE_SPLIT_CONTRACT_NESTED='1',
        PYTEST_DISABLE_PLUGIN_AUTOLOAD='1', PYTHONWARNINGS='default',
    )  # fmt: skip
    done = subprocess.run(command, env=more, text=True, capture_output=True, check=False)
    assert done.returncode == 0, done.stdout[-6000:]


def test_a_zenoh_node_says_that_ros_does_not_see_it() -> None:
    if not find_spec('zenoh'):
        pytest.skip('eclipse-zenoh is not installed')
    program = "ros.init(args=[])\nprint(ros.runtime_notes(ros.Node('node')))"
    assert 'do not see' in succeeds(program, SPARSE_SPLIT_TRANSPORT='zenoh')


@pytest.mark.parametrize('transport', TRANSPORTS)
def test_damaged_messages_are_dropped_and_the_node_lives(transport: str) -> None:
    done = run(
        """
ros.init(args=[])
node, got = ros.Node('node'), []
publisher = node.create_publisher(ros.String, 'chatter', 10)
node.create_subscription(ros.String, 'chatter', got.append, 10)
while not publisher.get_subscription_count():
    ros.spin_once(node, timeout_sec=0.01)
cdr = b'\\x00\\x01\\x00\\x00'
for damaged in (b'', b'\\x00', cdr, cdr + b'\\xff\\xff\\xff\\x7fabc', b'\\xff' * 64, bytes(3000)):
    try:
        publisher.publish(damaged)
    except ros.RCLError as error:
        print(error)
publisher.publish(ros.String(data='whole'))
end = time.monotonic() + 10
while not got and time.monotonic() < end:
    ros.spin_once(node, timeout_sec=0.05)
assert got[-1].data == 'whole', got
""",
        SPARSE_SPLIT_TRANSPORT=transport,
    )
    assert done.returncode == 0, done.stderr
    assert 'Traceback' not in done.stderr


def test_topics_can_come_and_go_without_end() -> None:
    succeeds("""
ros.init(args=[])
for turn in range(60):
    context = ros.Context()
    ros.init(args=[], context=context)
    node = ros.Node(f'node_{turn}', context=context)
    for number in range(10):
        node.create_publisher(ros.String, f'topic_{turn}_{number}', 10)
        node.create_subscription(ros.CompressedImage, f'image_{turn}_{number}', print, 10)
    if turn % 2:
        node.destroy_node()
    ros.shutdown(context=context)
""")


def test_what_has_gone_is_seen_once_and_kept_nowhere() -> None:
    succeeds("""
ros.init(args=[])
node = ros.Node('node')
transport = node.context.transport
for publisher in [node.create_publisher(ros.String, f'topic_{i}', 10) for i in range(50)]:
    node.destroy_publisher(publisher)
node.create_publisher(ros.String, 'stays', 10)
while [one.topic for one in transport.endpoints()] != ['/stays']:
    time.sleep(0.01)
left = [one for reader, _ in transport._seen.values() for one in reader.read(100)]
assert left == [], left
""")


def test_who_waits_does_nothing_else() -> None:
    succeeds("""
ros.init(args=[])
node = ros.Node('node')
node.create_publisher(ros.String, 'out', 10)
node.create_subscription(ros.String, 'in', print, 10)
executor = ros.SingleThreadedExecutor()
executor.add_node(node)
executor.spin_once(timeout_sec=0.5)  # it meets itself
busy, until = time.process_time(), time.monotonic() + 1
while time.monotonic() < until:
    executor.spin_once(timeout_sec=1.0)
assert time.process_time() - busy < 0.3, 'it spins'
""")


def test_what_has_gone_is_kept_nowhere_though_nobody_looks() -> None:
    succeeds("""
ros.init(args=[])
node = ros.Node('node')
for publisher in [node.create_publisher(ros.String, f'topic_{i}', 10) for i in range(50)]:
    node.destroy_publisher(publisher)
executor = ros.SingleThreadedExecutor()
executor.add_node(node)
until = time.monotonic() + 10
left = True
while left and time.monotonic() < until:
    executor.spin_once(timeout_sec=0.1)
    # Each look would take what there is; `read` leaves it.
    seen = node.context.transport._seen.values()
    left = [one for reader, _ in seen for one in reader.read(100)]
assert left == [], left
assert not any('topic' in one.topic_name for _, known in seen for one in known.values()
               if hasattr(one, 'topic_name'))
""")


def test_a_hundred_busy_topics_share_what_there_is() -> None:
    succeeds("""
ros.init(args=[])
node, got = ros.Node('node'), {}
topics = [f'topic_{i}' for i in range(100)]
for topic in topics:
    node.create_subscription(ros.String, topic, lambda m, t=topic: got.update({t: m}), 10)
publishers = [node.create_publisher(ros.String, topic, 10) for topic in topics]
for turn in range(300):  # fewer are taken than come
    for publisher in publishers:
        publisher.publish(ros.String(data='x'))
    ros.spin_once(node, timeout_sec=0)
assert len(got) == 100, len(got)
""")


def test_humble_gets_identifiers_of_24_bytes() -> None:
    program = """
from sparse_split_ros.embedded import dds
ros.init(args=[])
node = ros.Node('node')
transport = node.context.transport
assert ('node', '/') in node.get_node_names_and_namespaces()
print({len(info.gid.data) for info in transport._everyone()})
"""
    assert succeeds(program, ROS_DISTRO='humble', SPARSE_SPLIT_TRANSPORT='dds') == '{24}\n'
    assert succeeds(program, ROS_DISTRO='jazzy', SPARSE_SPLIT_TRANSPORT='dds') == '{16}\n'


# The end of a process

NODE = """
ros.init(args=[])
node = ros.Node('node')
publisher = node.create_publisher(ros.String, 'chatter', 10)
subscription = node.create_subscription(ros.String, 'chatter', lambda msg: None, 10)
"""


@pytest.mark.parametrize('transport', TRANSPORTS)
@pytest.mark.parametrize(
    'ending',
    [
        pytest.param('', id='nothing cleaned up'),
        pytest.param('ros.shutdown()', id='node not destroyed'),
        pytest.param('node.destroy_node()\nros.shutdown()', id='in order'),
        pytest.param('ros.shutdown()\nnode.destroy_node()', id='in reverse'),
        pytest.param('sys.exit(0)', id='sys.exit'),
        pytest.param(
            'threading.Thread(target=ros.spin, args=(node,), daemon=True).start()\n'
            'ros.spin_once(ros.Node("x"), executor=ros.SingleThreadedExecutor(), timeout_sec=0.1)',
            id='a daemon thread spins',
        ),
    ],
)
def test_a_process_ends_at_once_and_quietly(transport: str, ending: str) -> None:
    begin = time.monotonic()
    succeeds(NODE + ending, SPARSE_SPLIT_TRANSPORT=transport)
    assert time.monotonic() - begin < 10


@pytest.mark.parametrize('transport', TRANSPORTS)
def test_a_forked_child_ends_without_hanging(transport: str) -> None:
    program = (
        NODE
        + """
import warnings
warnings.simplefilter('ignore')
child = os.fork()
if child == 0:
    sys.exit(7)
end = time.monotonic() + 10
while time.monotonic() < end:
    pid, status = os.waitpid(child, os.WNOHANG)
    if pid:
        break
    time.sleep(0.01)
else:
    os.kill(child, 9)
    sys.exit('the child hangs')
assert os.waitstatus_to_exitcode(status) == 7
publisher.publish(ros.String(data='the parent works'))
"""
    )
    succeeds(program, SPARSE_SPLIT_TRANSPORT=transport)


@pytest.mark.parametrize('transport', TRANSPORTS)
def test_a_stopped_reliable_reader_delays_neither_writer_nor_exit(transport: str) -> None:
    shared = environment(SPARSE_SPLIT_TRANSPORT=transport)
    reader = start(NODE + "print('ready', flush=True)\nros.spin(node)", **shared)
    assert reader.stdout is not None
    assert reader.stdout.readline() == 'ready\n'
    program = (
        NODE
        + """
while publisher.get_subscription_count() < 2:
    ros.spin_once(node, timeout_sec=0.01)
print('matched', flush=True)
sys.stdin.readline()
# A queue of Zenoh holds the writer up once it is full; of what comes then it drops.
longest = 0
for _ in range(300):
    begin = time.monotonic()
    publisher.publish(ros.String(data='x' * 100_000))
    longest = max(longest, time.monotonic() - begin)
assert longest < 2, longest
print('published', flush=True)
node.destroy_node()
ros.shutdown()
"""
    )
    writer = subprocess.Popen(
        [sys.executable, '-c', PROLOGUE + program], env=shared, text=True,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    try:
        assert writer.stdout is not None
        assert writer.stdin is not None
        assert writer.stdout.readline() == 'matched\n'
        reader.send_signal(signal.SIGSTOP)
        writer.stdin.write('\n')
        writer.stdin.flush()
        assert writer.stdout.readline() == 'published\n'
        begin = time.monotonic()
        writer.wait(timeout=10)
        assert time.monotonic() - begin < 2.0
        assert writer.returncode == 0
    finally:
        reader.kill()
        writer.kill()
        reader.communicate()
        writer.communicate()


@pytest.mark.parametrize('delay', [0.0, 0.05, 0.1, 0.15])
@pytest.mark.parametrize('number', [signal.SIGINT, signal.SIGTERM])
def test_a_signal_at_any_moment_ends_a_node_quietly(number: signal.Signals, delay: float) -> None:
    process = start("""
try:
    ros.init(args=[])
    print('listening', flush=True)
    node = ros.Node('node')
    publisher = node.create_publisher(ros.String, 'chatter', 10)
    timer = node.create_timer(0.001, lambda: publisher.publish(ros.String()))
    ros.spin(node)
except (KeyboardInterrupt, ros.ExternalShutdownException, ros.NotInitializedException):
    pass
except ros.RCLError:
    assert not ros.ok()
ros.try_shutdown()
""")
    assert process.stdout is not None
    assert process.stdout.readline() == 'listening\n'
    time.sleep(delay)  # where in its start the signal hits is the point
    process.send_signal(number)
    begin = time.monotonic()
    _, err = process.communicate(timeout=10)
    assert time.monotonic() - begin < 2.0
    # Python dies of SIGINT after all, without a trace, if KeyboardInterrupt once hit an exec().
    assert process.returncode in (0, -signal.SIGINT if number == signal.SIGINT else 0)
    assert err == ''
