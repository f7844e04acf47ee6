# Copyright 2026 The sparse_split_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Installs the package for colcon and for pip alike, and builds its kernels where it can."""

import os
import platform
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from setuptools import Extension, find_packages, setup
from setuptools.command.build_ext import build_ext
from setuptools.errors import BaseError, CCompilerError

NAME = 'sparse_split_ros'
SHARE = f'share/{NAME}'
NATIVE = Path(NAME, 'native')
COMPILE = ['-std=c++17', '-g0', '-ffp-contract=fast', '-fvisibility=hidden', '-pthread']
# Both rearrange the innermost loops so that on aarch64 their sums no longer fit the registers.
KERNEL = ['-O3', '-fno-predictive-commoning', '-fno-schedule-insns']
# Kernels for instructions that not every machine has are compiled for them, and chosen at run time.
AVX2 = ['-mavx2', '-mfma']
AVX512 = [*AVX2, '-mavx512f', '-mavx512bw', '-mavx512dq', '-mavx512vl']
INSTRUCTIONS = {
    'x86_64': {
        'isa_avx2.cpp': AVX2,
        'isa_avx512.cpp': AVX512,
        'int8_vnni.cpp': [*AVX512, '-mavx512vnni'],
    },
    'aarch64': {'int8_dotprod.cpp': ['-march=armv8.2-a+dotprod']},
}.get(platform.machine(), {})


class BuildNative(build_ext):
    """Compiles the kernels, each file with its own flags, as many at once as there are cores.

    An install without a compiler is a whole install: the engine then is ONNX Runtime.
    """

    def build_extension(self, extension: Extension) -> None:
        """Compile and link, or say in one line why not."""
        target = Path(self.get_ext_fullpath(extension.name))
        try:
            import pybind11

            self.include_dirs.append(pybind11.get_include())
        except ImportError:
            pass  # Its headers may be the system's: Debian and ROS have pybind11-dev.
        try:
            with ThreadPoolExecutor(os.cpu_count()) as pool:
                compiled = pool.map(self._compile, extension.sources)
                objects = [path for paths in compiled for path in paths]
            target.parent.mkdir(parents=True, exist_ok=True)
            self.compiler.link_shared_object(
                objects, str(target), extra_postargs=['-pthread', '-s'], target_lang='c++'
            )
        except (BaseError, CCompilerError, OSError) as error:
            # What an earlier build left behind would no longer fit the sources.
            target.unlink(missing_ok=True)
            print(
                f'{NAME}: the native engine was not built ({error}). It needs g++ 11 or later, '
                "Python's headers and pybind11; without it everything runs on ONNX Runtime."
            )

    def _compile(self, source: str) -> list[str]:
        path = Path(source)
        optimise = KERNEL if path.parent.name == 'kernels' else ['-O2']
        flags = [*COMPILE, *optimise, *INSTRUCTIONS.get(path.name, [])]
        objects: list[str] = self.compiler.compile(
            [source],
            output_dir=self.build_temp,
            include_dirs=self.include_dirs,
            extra_postargs=flags,
        )
        return objects

    def get_outputs(self) -> list[str]:
        """What was really built, for installers that record every file."""
        return [path for path in super().get_outputs() if Path(path).exists()]

    def copy_extensions_to_source(self) -> None:
        """Put the extension beside its sources, for an editable install, if it was built."""
        if self.get_outputs():
            super().copy_extensions_to_source()
        else:
            for stale in NATIVE.glob('_native*.so'):
                stale.unlink()


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
    package_data={NAME: ['py.typed', 'evaluation/*.html', 'native/*.pyi']},
    ext_modules=[
        Extension(
            f'{NAME}.native._native',
            sorted(str(path) for path in NATIVE.rglob('*.cpp')),
            depends=sorted(str(path) for path in NATIVE.rglob('*.hpp')),
            language='c++',
        )
    ],
    cmdclass={'build_ext': BuildNative},
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
        'report': ['matplotlib>=3.5', 'Jinja2>=3.0', 'joblib>=1.2'],
        'train': ['torch>=2.1', 'onnx>=1.14', 'safetensors>=0.4', 'tqdm>=4.60', 'matplotlib>=3.5'],
        'vision': ['torchvision>=0.16'],
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
