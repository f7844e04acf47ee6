# Copyright 2026 The sparse_split_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Learned state survives a restart, and a foreign or broken file is refused with a reason."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from sparse_split_ros.policy.state import StateError, StateKeeper, load_state, save_state

OURS = {'policy': 'joint', 'fingerprint': 'ab' * 8}


def test_what_is_saved_is_restored(tmp_path) -> None:
    save_state(tmp_path / 'deep' / 'state.json', {'a': [1.5]}, **OURS)
    assert load_state(tmp_path / 'deep' / 'state.json', **OURS) == {'a': [1.5]}
    assert [path.name for path in (tmp_path / 'deep').iterdir()] == ['state.json']


def test_no_file_is_no_state(tmp_path) -> None:
    assert load_state(tmp_path / 'none.json', **OURS) is None


@pytest.mark.parametrize('change', [{'fingerprint': '00' * 8}, {'policy': 'splitee'}])
def test_another_bundles_or_policys_state_is_refused(tmp_path, change: dict[str, str]) -> None:
    save_state(tmp_path / 'state.json', {}, **{**OURS, **change})
    with pytest.raises(StateError, match=f'saved for {next(iter(change))}'):
        load_state(tmp_path / 'state.json', **OURS)


@pytest.mark.parametrize('error', [IndexError('too many indices'), OverflowError('too large')])
def test_a_state_over_which_a_policy_stumbles_is_moved_aside(tmp_path, error: Exception) -> None:
    class Stumbling(Learned):
        def restore(self, state: dict[str, object]) -> None:
            raise error

    path = tmp_path / 'state.json'
    save_state(path, {}, **OURS)
    well, text = StateKeeper(path, **OURS).restore(Stumbling())
    assert not well and repr(error) in text and text.startswith(f'refused {path}: ')
    assert [item.name for item in tmp_path.iterdir()] == ['state.json.refused']


@pytest.mark.parametrize('text', ['', '{', '[]', 'null', '{"format": 3}', '\x00\xff', '[' * 9999])
def test_a_corrupt_file_is_refused(tmp_path, text: str) -> None:
    (tmp_path / 'state.json').write_text(text, encoding='latin-1')
    with pytest.raises(StateError, match='starting blank'):
        load_state(tmp_path / 'state.json', **OURS)


def test_a_file_larger_than_any_state_is_not_read(tmp_path) -> None:
    with (tmp_path / 'state.json').open('wb') as file:
        file.truncate((16 << 20) + 1)
    with pytest.raises(StateError, match='larger than any policy state; starting blank'):
        load_state(tmp_path / 'state.json', **OURS)


def test_a_failed_save_keeps_the_old_file(tmp_path) -> None:
    path = tmp_path / 'state.json'
    save_state(path, {'a': 1}, **OURS)
    with pytest.raises(StateError, match='cannot be saved'):
        save_state(path, {'a': math.nan}, **OURS)
    assert load_state(path, **OURS) == {'a': 1}
    assert len(list(tmp_path.iterdir())) == 1


class Learned:
    def __init__(self) -> None:
        self.value = 0

    def state(self) -> dict[str, int]:
        return {'value': self.value}

    def restore(self, state: dict[str, int]) -> None:
        self.value = state['value']


def test_a_keeper_says_once_what_it_cannot_save(tmp_path) -> None:
    (tmp_path / 'file').write_text('')
    keeper = StateKeeper(tmp_path / 'file' / 'state.json', 'joint', 'ab')
    assert 'cannot be saved' in keeper.save(Learned().state())
    assert keeper.save(Learned().state()) == ''


def test_what_has_not_changed_is_not_written_again(tmp_path) -> None:
    path = tmp_path / 'state.json'
    keeper = StateKeeper(path, 'joint', 'ab')
    keeper.save({'value': 1})
    path.unlink()
    keeper.save({'value': 1})
    assert not path.exists()
    keeper.save({'value': 2})
    assert path.exists()


def test_a_state_that_does_not_fit_leaves_the_policy_blank(tmp_path) -> None:
    path = tmp_path / 'state.json'
    path.write_text(json.dumps(
        {'format': 'sparse_split_policy/1', 'policy': 'joint', 'fingerprint': 'ab', 'state': {}}
    ))  # fmt: skip
    learned = Learned()
    well, text = StateKeeper(path, 'joint', 'ab').restore(learned)
    assert not well and 'refused' in text and learned.value == 0


def test_a_refused_file_is_moved_aside_and_not_overwritten(tmp_path) -> None:
    path = tmp_path / 'state.json'
    save_state(path, {'value': 7}, policy='joint', fingerprint='cd' * 8)
    keeper = StateKeeper(path, 'joint', 'ab' * 8)
    well, text = keeper.restore(Learned())
    assert not well and 'cdcd' in text and 'state.json.refused' in text
    assert keeper.save({'value': 1}) == ''
    kept = json.loads((tmp_path / 'state.json.refused').read_text())
    assert kept['state'] == {'value': 7}


def test_files_refused_one_after_the_other_are_all_kept(tmp_path) -> None:
    path = tmp_path / 'state.json'
    for value in range(3):
        save_state(path, {'value': value}, policy='joint', fingerprint='cd')
        _, text = StateKeeper(path, 'joint', 'ab').restore(Learned())
    assert text.endswith('kept as state.json.refused.3')
    kept = [json.loads(file.read_text())['state']['value'] for file in sorted(tmp_path.iterdir())]
    assert kept == [0, 1, 2]


def test_a_refused_file_that_cannot_be_moved_is_not_overwritten(tmp_path, monkeypatch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(13, 'Permission denied')

    path = tmp_path / 'state.json'
    save_state(path, {'value': 7}, policy='joint', fingerprint='cd')
    keeper = StateKeeper(path, 'joint', 'ab')
    with monkeypatch.context() as patched:
        patched.setattr(Path, 'replace', refuse)
        well, text = keeper.restore(Learned())
    assert not well and 'Permission denied' in text and 'kept as' not in text
    keeper.save({'value': 1})
    assert json.loads(path.read_text())['state'] == {'value': 7}
