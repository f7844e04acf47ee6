# Copyright 2026 The sparse_split_ros authors
# SPDX-License-Identifier: Apache-2.0
"""A bundle is believed only after every field and every hash has been checked."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from bundles import make_bundle

from sparse_split_ros.runtime import bundle as bundle_module
from sparse_split_ros.runtime.bundle import Bundle, BundleError, bundle_path, write_manifest
from sparse_split_ros.runtime.engine import choose_engine
from sparse_split_ros.runtime.profile import key
from sparse_split_ros.runtime.profile import profile as measure


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    make_bundle(tmp_path / 'bundle')
    return tmp_path / 'bundle'


def edit(directory: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    path = directory / 'manifest.json'
    manifest = json.loads(path.read_text())
    change(manifest)
    path.write_text(json.dumps(manifest))


def test_a_written_bundle_loads_with_its_content(directory: Path) -> None:
    bundle = Bundle.load(directory)
    assert bundle.final == 2
    assert bundle.classes == tuple(f'class {i}' for i in range(5))
    assert bundle.input_shape(0) == (3, 16, 16)
    assert bundle.input_shape(1) == (8, 8, 8)
    assert bundle.split_at(1).shape == (4, 4, 4)
    assert bundle.exit_at(0) is not None
    assert bundle.profile() == {}


def test_fingerprint_is_the_manifest_hash_and_moves_with_it(directory: Path) -> None:
    manifest = (directory / 'manifest.json').read_bytes()
    before = Bundle.load(directory).fingerprint
    assert before == hashlib.sha256(manifest).digest()[:8]
    edit(directory, lambda m: m['defaults'].update(threshold=0.5))
    assert Bundle.load(directory).fingerprint != before


def test_profile_is_read_and_does_not_move_the_fingerprint(directory: Path) -> None:
    before = Bundle.load(directory).fingerprint
    (directory / 'profile.json').write_text('{"machine": {"node": "desk"}}')
    bundle = Bundle.load(directory)
    assert bundle.fingerprint == before
    assert bundle.profile() == {'machine': {'node': 'desk'}}


@pytest.mark.parametrize('profile', [
    '{', '[]', '{"machine": "desk"}', '{"engines": 3}', '{"engines": null}',
    '{"engines": {"native/cpu/1": []}}',
    *(f'{{"engines": {{"native/cpu/1": {{"stage_ms": {times}}}}}}}' for times in (
        '[1.0]', 'null', '{"9": 1.0}', '{"-1": 1.0}', '{"0": "x"}', '{"0": -1.0}', '{"0": 1e999}',
    )),
])  # fmt: skip
def test_a_damaged_profile_is_one_error_and_measured_again(directory: Path, profile: str) -> None:
    (directory / 'profile.json').write_text(profile)
    bundle = Bundle.load(directory)
    with pytest.raises(BundleError, match=r'profile\.json: .* sparse-split profile'):
        bundle.profile()
    measure(directory, repeats=1)
    assert set(bundle.profile()['engines']) == {key(choose_engine(bundle), 'cpu', 1)}


def with_graph(directory: Path) -> dict[str, Any]:
    """Add the files for engines that are not ONNX; the manifest without its hashes."""
    (directory / 'graph.json').write_text('{}')
    (directory / 'weights.safetensors').write_bytes(b'')
    manifest: dict[str, Any] = json.loads((directory / 'manifest.json').read_text())
    del manifest['files'], manifest['format']
    return manifest | {'graph': 'graph.json', 'weights': 'weights.safetensors'}


def test_graph_and_weights_are_optional_and_hashed(directory: Path) -> None:
    assert Bundle.load(directory).graph is None
    bundle = write_manifest(directory, with_graph(directory))
    assert (bundle.graph, bundle.weights) == ('graph.json', 'weights.safetensors')
    (directory / 'graph.json').write_text('{ }')
    with pytest.raises(BundleError, match=r'graph\.json: SHA-256 is'):
        Bundle.load(directory)


def test_graph_without_weights_is_refused(directory: Path) -> None:
    manifest = with_graph(directory)
    del manifest['weights']
    with pytest.raises(BundleError, match='both "graph" and "weights", or neither'):
        write_manifest(directory, manifest)


def test_rows_of_numbers_stand_on_one_line(directory: Path) -> None:
    manifest = with_graph(directory)
    manifest['training'] = {'rows': [[1, -2.5, 3e-05], []], 'words': ['[\n1\n]', 'a']}
    assert write_manifest(directory, manifest).training == manifest['training']
    assert '[1, -2.5, 3e-05]' in (directory / 'manifest.json').read_text()


def test_costs_of_a_part_are_numbers(directory: Path) -> None:
    edit(directory, lambda m: m['stages'][1].update(account={'energy_uj': 2.5}))
    assert Bundle.load(directory).stages[1].account == {'energy_uj': 2.5}
    edit(directory, lambda m: m['stages'][1].update(account={'energy_uj': 'much'}))
    with pytest.raises(BundleError, match='energy_uj: expected a number'):
        Bundle.load(directory)


def test_missing_directory_is_named(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match='nowhere: no such bundle directory'):
        Bundle.load(tmp_path / 'nowhere')


def test_missing_manifest_is_named(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r'manifest\.json: cannot be read'):
        Bundle.load(tmp_path)


def test_missing_file_is_named(directory: Path) -> None:
    (directory / 'stage_1.onnx').unlink()
    with pytest.raises(BundleError, match=r'stage_1\.onnx: listed in the manifest but missing'):
        Bundle.load(directory)


def test_tampered_file_is_named(directory: Path) -> None:
    path = directory / 'exit_0.onnx'
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(BundleError, match=r'exit_0\.onnx: SHA-256 is .* fetch the bundle again'):
        Bundle.load(directory)


def test_a_file_changed_after_loading_is_refused_when_read(directory: Path) -> None:
    bundle = Bundle.load(directory)
    (directory / 'stage_0.onnx').write_bytes(b'other')
    with pytest.raises(BundleError, match='SHA-256'):
        bundle.read('stage_0.onnx')


def test_a_file_the_manifest_does_not_know_is_not_read(directory: Path) -> None:
    (directory / 'extra.onnx').write_bytes(b'extra')
    with pytest.raises(BundleError, match=r"'extra\.onnx' is not a file of bundle"):
        Bundle.load(directory).read('extra.onnx')


@pytest.mark.parametrize('name', ['../secret', '/etc/passwd', 'a/b.onnx', '..', 'c:x', 'a\\b'])
def test_a_name_that_leaves_the_directory_is_refused(directory: Path, name: str) -> None:
    edit(directory, lambda m: m['files'].update({name: '0' * 64}))
    with pytest.raises(BundleError, match='would leave the bundle'):
        Bundle.load(directory)


@pytest.mark.parametrize('text', ['', '{', '[' * 100_000, '\xff', '{"format": NaN}', '[]', '7'])
def test_a_manifest_that_is_not_a_json_object_is_refused(directory: Path, text: str) -> None:
    (directory / 'manifest.json').write_bytes(text.encode('latin-1'))
    with pytest.raises(BundleError, match=r'manifest\.json'):
        Bundle.load(directory)


def test_another_format_version_is_refused(directory: Path) -> None:
    edit(directory, lambda m: m.update(format='sparse_split_bundle/9'))
    with pytest.raises(BundleError, match="format 'sparse_split_bundle/9', this release reads"):
        Bundle.load(directory)


FIELDS = ['name', 'classes', 'input', 'stages', 'exits', 'splits', 'defaults', 'training', 'files']


@pytest.mark.parametrize('field', FIELDS)
def test_a_missing_field_is_named(directory: Path, field: str) -> None:
    edit(directory, lambda m: m.pop(field))
    with pytest.raises(BundleError, match=f"'{field}' is missing"):
        Bundle.load(directory)


Change = Callable[[dict[str, Any]], Any]
WRONG: list[tuple[str, Change]] = [
    ('classes', lambda m: m.update(classes=['same', 'same'])),
    ('classes', lambda m: m.update(classes='abc')),
    (r'classes\[0\]', lambda m: m.update(classes=[1, 2])),
    ('shape', lambda m: m['input'].update(shape=[3, 16])),
    ('shape', lambda m: m['input'].update(shape=[3, 60_000, 60_000])),
    ('rgb', lambda m: m['input'].update(color='bgr')),
    ('scale', lambda m: m['input'].update(scale=True)),
    ('std', lambda m: m['input'].update(std=[0.2, 0.0, 0.2])),
    ('scale', lambda m: m['input'].update(scale=10**400)),
    (r'splits\[0\]: codecs: .* at least one codec', lambda m: m['splits'][0].update(codecs={})),
    (r'stages\[0\]: model', lambda m: m['stages'][0].update(model='none.onnx')),
    (r'stages\[1\]: macs', lambda m: m['stages'][1].update(macs=-1)),
    (r'stages\[1\]: output_shape', lambda m: m['stages'][1].update(output_shape=[12, 0, 4])),
    ('stages', lambda m: m.update(stages=[])),
    (r'exits\[0\]: temperature', lambda m: m['exits'][0].update(temperature=0)),
    (r'exits\[0\]: accuracy', lambda m: m['exits'][0].update(accuracy=97.0)),
    (r'exits\[0\]: stage', lambda m: m['exits'][0].update(stage=3)),
    ('exits: expected the last exit', lambda m: m['exits'].pop()),
    ('exits: expected at most one', lambda m: m['exits'][0].update(stage=1)),
    (r'splits\[0\]: stage', lambda m: m['splits'][0].update(stage=2)),
    ('neither', lambda m: m['splits'][0].update(decoder=None)),
    (r'splits\[0\]: shape', lambda m: m['splits'][0].update(decoder=None, encoder=None)),
    ('codecs', lambda m: m['splits'][0].update(codecs={'int8': 3})),
    (
        'codecs: int8: mean_bytes',
        lambda m: m['splits'][0]['codecs']['int8'].update(mean_bytes=None),
    ),
    ('int8: disagreement', lambda m: m['splits'][0]['codecs']['int8'].update(disagreement='x')),
    (r'int8: low\[1\]', lambda m: m['splits'][0]['codecs']['int8'].update(low=[0, 'x', 0, 0])),
    (r'int8: step\[2\]', lambda m: m['splits'][0]['codecs']['int8'].update(step=[1, 1, 0, 1])),
    ('int8: low: .* list of', lambda m: m['splits'][0]['codecs']['int8'].update(low=[0])),
    ('dictionary: .*base64', lambda m: m['splits'][0]['codecs']['int8'].update(dictionary=3)),
    ('defaults: split', lambda m: m['defaults'].update(split=7)),
    ('defaults: codec', lambda m: m['defaults'].update(codec='jpeg')),
    ('defaults: threshold', lambda m: m['defaults'].update(threshold=1.5)),
    ('SHA-256', lambda m: m['files'].update({'stage_0.onnx': 'abc'})),
]


@pytest.mark.parametrize(('message', 'change'), WRONG)
def test_a_wrong_value_is_named(directory: Path, message: str, change: Change) -> None:
    edit(directory, change)
    with pytest.raises(BundleError, match=message):
        Bundle.load(directory)


def test_a_split_the_bundle_lacks_is_named(directory: Path) -> None:
    with pytest.raises(BundleError, match=r'no split after stage 2; it has \[0, 1\]'):
        Bundle.load(directory).split_at(2)


def test_bundle_path_takes_a_directory(directory: Path) -> None:
    assert bundle_path(directory) == directory


def test_bundle_path_finds_a_name_under_an_ament_prefix(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    installed = tmp_path / 'prefix' / 'share' / 'sparse_split_ros' / 'models' / 'tiny'
    make_bundle(installed)
    monkeypatch.setenv('AMENT_PREFIX_PATH', str(tmp_path / 'prefix'))
    assert bundle_path('tiny') == installed


def test_bundle_path_finds_a_name_beside_site_packages(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    installed = tmp_path / 'share' / 'sparse_split_ros' / 'models' / 'tiny'
    make_bundle(installed)
    package = tmp_path / 'lib' / 'python3.12' / 'site-packages' / 'sparse_split_ros' / 'runtime'
    monkeypatch.setattr(bundle_module, '__file__', str(package / 'bundle.py'))
    assert bundle_path('tiny') == installed


def test_an_unknown_name_says_where_it_was_looked_for() -> None:
    with pytest.raises(BundleError, match="no bundle 'never_shipped'"):
        bundle_path('never_shipped')
