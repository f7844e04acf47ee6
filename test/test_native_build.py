# Copyright 2026 The sparse_split_ros authors
# SPDX-License-Identifier: Apache-2.0
"""How the kernels are built: with sanitizers, without a compiler, and for a source distribution."""

import os
import shutil
import subprocess
import sys
import tarfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
NATIVE = ROOT / 'sparse_split_ros' / 'native'
COMPILER = shutil.which(os.environ.get('CXX', 'g++'))
SANITIZE = ['-fsanitize=address,undefined', '-fno-sanitize-recover=all']
# See kernels/conv.hpp.
SMALL = '-DSPARSE_SPLIT_TILE=3'


def setup(*arguments, cwd=ROOT, **environment):
    """Run setup.py as an installer does."""
    return subprocess.run(
        [sys.executable, 'setup.py', *arguments],
        cwd=cwd, env=os.environ | environment, capture_output=True, text=True, check=False,
    )  # fmt: skip


def instructions():
    """Flags of each file of kernels, as setup.py gives them, that this machine can run."""
    try:
        known = set(Path('/proc/cpuinfo').read_text().split())
    except OSError:
        return {}
    avx512 = ['avx512f', 'avx512bw', 'avx512dq', 'avx512vl']
    flags = {}
    if {'avx2', 'fma'} <= known:
        flags['isa_avx2.cpp'] = ['-mavx2', '-mfma']
    if set(avx512) <= known:
        flags['isa_avx512.cpp'] = [*(f'-m{name}' for name in avx512), '-mfma']
        if 'avx512_vnni' in known:
            flags['int8_vnni.cpp'] = [*flags['isa_avx512.cpp'], '-mavx512vnni']
    return flags


@pytest.mark.skipif(COMPILER is None, reason='there is no C++ compiler')
def test_kernels_stay_in_their_memory(tmp_path):
    empty = tmp_path / 'empty.cpp'
    empty.write_text('int main() {}')
    if subprocess.run(
        [COMPILER, *SANITIZE, empty, '-o', tmp_path / 'empty'], capture_output=True, check=False
    ).returncode:
        pytest.skip('the compiler has no sanitizers')
    sources = [
        *NATIVE.glob('kernels/*.cpp'),
        *(path for path in NATIVE.glob('*.cpp') if 'pybind11' not in path.read_text()),
        ROOT / 'test' / 'native_driver.cpp',
    ]
    flags = instructions()

    def compiled(source):
        target = tmp_path / f'{source.stem}.o'
        subprocess.run(
            [COMPILER, '-std=c++17', '-O1', '-g1', SMALL, *SANITIZE, *flags.get(source.name, []),
             f'-I{NATIVE}', '-c', source, '-o', target],
            check=True,
        )  # fmt: skip
        return target

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        objects = list(pool.map(compiled, sources))
    driver = tmp_path / 'driver'
    subprocess.run([COMPILER, *SANITIZE, *objects, '-o', driver], check=True)
    result = subprocess.run([driver], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    assert 'results agree' in result.stdout


def test_a_build_without_a_compiler_says_so_and_succeeds(tmp_path):
    result = setup(
        'build_ext', '--build-lib', str(tmp_path / 'lib'), '--build-temp', str(tmp_path / 'temp'),
        CC='no-such-compiler', CXX='no-such-compiler',
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    assert 'the native engine was not built' in result.stdout
    assert not list(tmp_path.rglob('*.so'))


def test_a_build_that_fails_leaves_no_module_of_an_earlier_one(tmp_path):
    tree = tmp_path / 'tree'
    shutil.copytree(ROOT, tree, ignore=shutil.ignore_patterns('.*', '*.so', 'build', '*.egg-info'))
    stale = tree / NATIVE.relative_to(ROOT) / '_native.of-an-earlier-build.so'
    stale.write_bytes(b'')
    result = setup(
        'build_ext', '--inplace', CC='no-such-compiler', CXX='no-such-compiler', cwd=tree
    )
    assert result.returncode == 0, result.stderr
    assert not stale.exists()


def test_a_source_distribution_has_all_that_the_build_reads(tmp_path):
    tree = tmp_path / 'tree'
    shutil.copytree(ROOT, tree, ignore=shutil.ignore_patterns('.*', '*.so', 'build', '*.egg-info'))
    result = setup('sdist', '--dist-dir', str(tmp_path / 'dist'), cwd=tree)
    assert result.returncode == 0, result.stderr
    (archive,) = (tmp_path / 'dist').glob('*.tar.gz')
    with tarfile.open(archive) as files:
        packed = {Path(*Path(name).parts[1:]) for name in files.getnames()}
    needed = {path.relative_to(ROOT) for path in NATIVE.rglob('*.[ch]pp')}
    assert needed
    assert needed <= packed
