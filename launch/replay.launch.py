# Copyright 2026 The sparse_split_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Plays a bag's image, ground truth and scene into head and tail, once they listen."""

from __future__ import annotations

from pathlib import Path

from ament_index_python.packages import get_package_share_directory
from launch import LaunchContext, LaunchDescription
from launch.actions import (
    DeclareLaunchArgument,
    EmitEvent,
    ExecuteProcess,
    IncludeLaunchDescription,
    OpaqueFunction,
    RegisterEventHandler,
)
from launch.event_handlers import OnProcessExit
from launch.events import Shutdown
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node

SPLIT = Path(get_package_share_directory('sparse_split_ros')) / 'launch' / 'split.launch.py'

ARGUMENTS = (
    ('bag', None, 'The bag to play: a directory'),
    ('image', '/image', "The bag's image topic, without /compressed"),
    ('image_transport', 'raw', 'How the bag holds it: raw or compressed'),
    ('ground_truth', '/ground_truth', "The bag's topic of true classes"),
    ('scene', '/scene', "The bag's topic of true scenes"),
    ('rate', '1.0', 'Speed against the recorded one'),
    ('loop', 'false', 'Start again at the end'),
    ('role', 'both', 'What runs here beside the player: both, head or tail'),
)


def play(context: LaunchContext) -> list:
    """The player, paused until somebody listens, and the end of everything at its end."""
    given = {name: LaunchConfiguration(name).perform(context) for name, _, _ in ARGUMENTS}
    # As the head reads it.
    image = given['image'] + ('/compressed' if given['image_transport'] == 'compressed' else '')
    command = ['ros2', 'bag', 'play', given['bag'], '--clock', '--rate', given['rate']]
    command += ['--start-paused', '--disable-keyboard-controls']
    command += ['--loop'] if given['loop'].lower() in ('true', '1') else []
    command += ['--topics', image, given['ground_truth'], given['scene']]
    player = ExecuteProcess(cmd=command, output='screen')
    resume = Node(
        package='sparse_split_ros',
        executable='resume_bag',
        parameters=[{'topic': image}],
        output='screen',
    )
    end = OnProcessExit(target_action=player, on_exit=[EmitEvent(event=Shutdown())])
    return [player, resume, RegisterEventHandler(end)]


def generate_launch_description() -> LaunchDescription:
    """What ``ros2 launch`` asks for."""
    arguments = [
        DeclareLaunchArgument(name, default_value=default, description=description)
        for name, default, description in ARGUMENTS
    ]
    split = IncludeLaunchDescription(
        PythonLaunchDescriptionSource(str(SPLIT)),
        launch_arguments={
            'role': LaunchConfiguration('role'),
            'image': LaunchConfiguration('image'),
            'image_transport': LaunchConfiguration('image_transport'),
            'use_sim_time': 'true',
        }.items(),
    )
    return LaunchDescription([*arguments, split, OpaqueFunction(function=play)])
