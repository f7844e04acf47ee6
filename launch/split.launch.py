# Copyright 2026 The sparse_split_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Starts the head, the tail, or both: the same file on the robot and offboard.

An argument overrides the parameter file only when it is given.
"""

from __future__ import annotations

from pathlib import Path

from ament_index_python.packages import get_package_share_directory
from launch import LaunchContext, LaunchDescription
from launch.actions import DeclareLaunchArgument, OpaqueFunction
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node

PARAMETERS = Path(get_package_share_directory('sparse_split_ros')) / 'config' / 'split.yaml'

ARGUMENTS = (
    ('role', 'both', 'What runs here: both, head (on the robot) or tail (offboard)'),
    ('namespace', '', 'Namespace of nodes and topics; the same for head and tail'),
    ('image', 'image', 'Image topic; with image_transport compressed its /compressed sibling'),
    ('image_transport', '', 'raw or compressed'),
    ('bundle', '', 'Bundle: a directory, or the name of a shipped one'),
    ('engine', '', 'What runs the network: auto, native, native-int8, onnxruntime or torch'),
    ('device', '', 'Where it runs: cpu, cuda or tensorrt'),
    ('params_file', str(PARAMETERS), 'Parameter file'),
    ('record', '', 'Directory of a bag to record decisions, answers and the truth into'),
    ('tasks', '', "The bundle's tasks beside the first, whose truth is recorded too"),
    ('use_sim_time', '', 'true when a bag publishes /clock'),
    ('log_level', 'info', 'debug, info, warn, error or fatal'),
)

SWITCH = {'true': True, '1': True, 'false': False, '0': False}


def nodes(context: LaunchContext) -> list[Node]:
    """The nodes of the role, with the arguments that were given."""
    given = {name: LaunchConfiguration(name).perform(context) for name, _, _ in ARGUMENTS}
    role = given['role']
    if role not in ('both', 'head', 'tail'):
        raise ValueError(f'role is {role!r}, choose one of both, head, tail')
    # launch_ros only warns, and the nodes would run on other values than were meant.
    if not Path(given['params_file']).is_file():
        raise ValueError(f'params_file {given["params_file"]} is not a file')
    overrides = {name: given[name] for name in ('bundle', 'engine', 'device') if given[name]}
    if given['use_sim_time']:
        if given['use_sim_time'].lower() not in SWITCH:
            raise ValueError(f'use_sim_time is {given["use_sim_time"]!r}, choose true or false')
        overrides['use_sim_time'] = SWITCH[given['use_sim_time'].lower()]
    image_transport = given['image_transport']
    head_only = {'image_transport': image_transport} if image_transport else {}
    started = [
        Node(
            package='sparse_split_ros',
            executable=f'{name}_node',
            name=name,
            namespace=given['namespace'],
            parameters=[given['params_file'], {**overrides, **only}],
            remappings=[('image', given['image'])] if name == 'head' else [],
            ros_arguments=['--log-level', given['log_level']],
            output='screen',
        )
        for name, only in (('head', head_only), ('tail', {}))
        if role in ('both', name)
    ]
    if given['record']:
        tasks = ['--tasks', *given['tasks'].split()] if given['tasks'] else []
        recorder = Node(
            package='sparse_split_ros',
            executable='sparse-split',
            name='recorder',
            namespace=given['namespace'],
            arguments=[
                'record',
                given['record'],
                '--head-parameters',
                given['params_file'],
                *tasks,
            ],
            output='screen',
        )
        started.append(recorder)
    return started


def generate_launch_description() -> LaunchDescription:
    """What ``ros2 launch`` asks for."""
    arguments = [
        DeclareLaunchArgument(name, default_value=default, description=description)
        for name, default, description in ARGUMENTS
    ]
    return LaunchDescription([*arguments, OpaqueFunction(function=nodes)])
