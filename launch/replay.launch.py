# Copyright 2026 The sparse_split_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Plays a bag's image, ground truth and scene into head and tail, once they listen."""

from __future__ import annotations

from pathlib import Path

import yaml
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


KINDS = {'raw': 'sensor_msgs/msg/Image', 'compressed': 'sensor_msgs/msg/CompressedImage'}


def arguments(context: LaunchContext) -> tuple[dict[str, str], str]:
    """What was given, and the image topic as the head reads it."""
    given = {name: LaunchConfiguration(name).perform(context) for name, _, _ in ARGUMENTS}
    suffix = '/compressed' if given['image_transport'] == 'compressed' else ''
    return given, given['image'] + suffix


def inherited(context: LaunchContext, name: str) -> str:
    """An argument of split.launch.py, which takes what is given to this file."""
    return LaunchConfiguration(name, default='').perform(context)


def check(context: LaunchContext) -> list:
    """Nothing, or one error before anything starts, where there would be nothing to see."""
    given, image = arguments(context)
    bag, transport = Path(given['bag']), given['image_transport']
    if transport not in KINDS:
        raise ValueError(f'image_transport is {transport!r}, choose one of {", ".join(KINDS)}')
    if not bag.exists():
        raise ValueError(f'bag {bag} does not exist')
    record = inherited(context, 'record')
    if record and Path(record).exists():
        raise ValueError(f'record: {record} exists already: remove it or choose another name')
    held = topics_of(bag)
    if (bag / 'metadata.yaml').exists() and held.get(image) != KINDS[transport]:
        listing = ', '.join(f'{name} ({kind})' for name, kind in sorted(held.items())) or 'none'
        raise ValueError(
            f'bag {bag} has no {image} of {KINDS[transport]}, which image and image_transport '
            f'name; its topics are: {listing}'
        )
    return []


def topics_of(bag: Path) -> dict[str, str]:
    """The types of a bag's topics; none of a single file, which the player opens, too.

    Not read with rosbags: that may be in a virtual environment, and `ros2 launch` outside it.
    """
    if not (bag / 'metadata.yaml').exists():
        return {}
    try:
        metadata = yaml.safe_load((bag / 'metadata.yaml').read_text(encoding='utf-8'))
        topics = metadata['rosbag2_bagfile_information']['topics_with_message_count']
        return {each['topic_metadata']['name']: each['topic_metadata']['type'] for each in topics}
    except (yaml.YAMLError, UnicodeDecodeError, KeyError, TypeError) as error:
        # What YAML says is several lines, and of a key only its name.
        reason = f'{type(error).__name__}: {" ".join(str(error).split())}'
        raise ValueError(f'bag {bag} has a damaged metadata.yaml: {reason}') from error


def play(context: LaunchContext) -> list:
    """The player, paused until somebody listens, and the end of everything at its end."""
    given, image = arguments(context)
    command = ['ros2', 'bag', 'play', given['bag'], '--clock', '--rate', given['rate']]
    command += ['--start-paused', '--disable-keyboard-controls']
    command += ['--loop'] if given['loop'].lower() in ('true', '1') else []
    # The truth goes where this robot's is looked for, whatever the bag calls it; of each task.
    space = f'/{inherited(context, "namespace").strip("/")}'.rstrip('/')
    known = {given[name]: f'{space}/{name}' for name in ('ground_truth', 'scene')}
    above = f'{given["ground_truth"]}/'
    known |= {
        name: f'{space}/ground_truth/{name[len(above) :]}'
        for name in topics_of(Path(given['bag'])) if name.startswith(above)
    }  # fmt: skip
    command += ['--topics', image, *known]
    command += ['--remap', *(f'{name}:={goal}' for name, goal in known.items())]
    player = ExecuteProcess(cmd=command, output='screen')
    # A recorder may take longer to start than a head.
    waited_for = [image, f'{space}/decision'] if inherited(context, 'record') else [image]
    resume = Node(
        package='sparse_split_ros',
        executable='resume_bag',
        parameters=[{'topics': waited_for}],
        output='screen',
    )
    end = OnProcessExit(target_action=player, on_exit=[EmitEvent(event=Shutdown())])
    return [player, resume, RegisterEventHandler(end)]


def generate_launch_description() -> LaunchDescription:
    """What ``ros2 launch`` asks for."""
    declared = [
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
    return LaunchDescription([
        *declared, OpaqueFunction(function=check), split, OpaqueFunction(function=play)
    ])  # fmt: skip
