# Copyright 2026 The sparse_split_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Installs the package for colcon and for pip alike."""

from pathlib import Path

from setuptools import find_packages, setup

NAME = 'sparse_split_ros'
SHARE = f'share/{NAME}'


def tree(directory: str) -> list[tuple[str, list[str]]]:
    """Every file below a directory, to be installed below the package's share directory."""
    files: dict[str, list[str]] = {}
    for path in sorted(Path(directory).rglob('*')):
        # A profile is this machine's own, and no other's.
        if path.is_file() and '__pycache__' not in path.parts and path.name != 'profile.json':
            files.setdefault(f'{SHARE}/{path.parent}', []).append(str(path))
    return list(files.items())


setup(
    name=NAME,
    version='0.1.0',
    description='Split computing with early exits over a ROS 2 topic',
    long_description=Path('README.md').read_text(encoding='utf-8'),
    long_description_content_type='text/markdown',
    author='The sparse_split_ros authors',
    license='Apache-2.0',
    python_requires='>=3.10',
    packages=find_packages(exclude=['test', 'test.*']),
    package_data={NAME: ['py.typed', 'evaluation/*.html']},
    data_files=[
        ('share/ament_index/resource_index/packages', [f'resource/{NAME}']),
        (SHARE, ['package.xml']),
        *tree('launch'),
        *tree('config'),
        *tree('models'),
    ],
    zip_safe=False,
    install_requires=[
        'setuptools',
        'numpy>=1.21',
        'onnxruntime>=1.15',
        'opencv-python-headless>=4.5',
        'PyYAML>=5.4',
        'rich>=11',
        'rosbags>=0.11,<0.12',
        "backports.zstd>=1.0; python_version < '3.14'",
    ],
    extras_require={
        # Cyclone DDS has no wheel for Linux on Arm and for Python 3.14; Zenoh has.
        'embedded': [
            "cyclonedds>=11.0.1,<12; platform_machine != 'aarch64' and python_version < '3.14'",
            "eclipse-zenoh>=1.10,<2; platform_machine == 'aarch64' or python_version >= '3.14'",
        ],
        'report': ['matplotlib>=3.5', 'Jinja2>=3.0'],
        'train': ['torch>=2.1', 'onnx>=1.14', 'safetensors>=0.4', 'tqdm>=4.60'],
        'test': [
            'pytest>=7',
            'pytest-timeout>=2',
            'hypothesis>=6',
            'onnx>=1.14',
            'psutil>=5',
            "dora-rs>=1; python_version >= '3.11'",
            'eclipse-zenoh>=1.10,<2',
        ],
    },
    entry_points={
        'console_scripts': [
            'head_node = sparse_split_ros.nodes.entry:head',
            'tail_node = sparse_split_ros.nodes.entry:tail',
            'player_node = sparse_split_ros.nodes.entry:player',
            'resume_bag = sparse_split_ros.nodes.resume:main',
            'sparse-split = sparse_split_ros.cli:main',
        ],
    },
)
