# Copyright 2026 The sparse_split_ros authors
# SPDX-License-Identifier: Apache-2.0
"""What a result depends on beside its input: this machine and the versions installed on it."""

from __future__ import annotations

import os
import platform
from importlib import metadata
from pathlib import Path
from typing import Any

from sparse_split_ros import __version__

_PACKAGES = ('numpy', 'onnxruntime', 'opencv-python-headless', 'rosbags', 'cyclonedds',
             'eclipse-zenoh', 'zstandard')  # fmt: skip


def machine() -> dict[str, Any]:
    """What this machine is, as far as times depend on it."""
    return {
        'processor': _processor(),
        'cores': os.cpu_count(),
        'architecture': platform.machine(),
        'system': f'{platform.system()} {platform.release()}',
    }


def _processor() -> str:
    try:
        lines = Path('/proc/cpuinfo').read_text(encoding='utf-8', errors='replace').splitlines()
    except OSError:
        return platform.processor() or 'unknown'
    # x86 says 'model name', Arm's older kernels 'Model' or 'Hardware', newer ones nothing.
    fields = dict(line.split(':', 1) for line in lines if ':' in line)
    names = {key.strip().lower(): value.strip() for key, value in fields.items()}
    known = (names[key] for key in ('model name', 'model', 'hardware') if key in names)
    return next(known, platform.processor() or 'unknown')


def versions() -> dict[str, str]:
    """Versions of what computed and carried the answers, as far as they are installed."""
    found = {'sparse_split_ros': __version__, 'python': platform.python_version()}
    for name in _PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    if 'ROS_DISTRO' in os.environ:
        found['ros'] = os.environ['ROS_DISTRO']
    return found
