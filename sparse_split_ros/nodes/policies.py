# Copyright 2026 The sparse_split_ros authors
# SPDX-License-Identifier: Apache-2.0
"""The head's policy: made from parameters, changed live, kept across restarts."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from sparse_split_ros.policy.factory import READS, Settings, bundle_calibration, make_policy
from sparse_split_ros.policy.facts import Facts
from sparse_split_ros.policy.plan import Policy
from sparse_split_ros.policy.state import Learned, StateKeeper
from sparse_split_ros.runtime.bundle import Bundle
from sparse_split_ros.runtime.profile import key

# How much of what was learned a power cut may cost.
_SAVE_EVERY_S = 10.0
# How long a slow disk may take at shutdown: the file of before is whole in any case.
_LAST_SAVE_S = 0.5
# What makes another policy of the same name, if it reads that; the rest changes it as it runs.
_MAKES_ANOTHER = ('split', 'threshold', 'codec')


def chosen(values: Mapping[str, Any], bundle: Bundle) -> str:
    """The name of the policy; ``auto`` is joint where that is safe and nobody argues.

    It is safe where the bundle brings calibration: without, it would have to begin by computing or
    asking for everything. Who sets a split or a threshold means the fixed policy.
    """
    name = str(values['policy'])
    if name != 'auto':
        return name
    argued = values['split'] >= 0 or values['threshold'] >= 0
    return 'fixed' if argued or bundle_calibration(bundle) is None else 'joint'


def settings_of(values: Mapping[str, Any], bundle: Bundle, engine: str) -> Settings:
    """A policy's settings from the head's parameters and this machine's measured stage times.

    ``engine`` is the name of the engine that runs. Raises BundleError for a damaged profile.
    """
    engines = bundle.profile().get('engines', {})
    times = engines.get(key(engine, values['device'], values['threads']), {})
    return Settings(
        split=values['split'],
        threshold=values['threshold'],
        codec=values['codec'],
        target_disagreement=values['target_disagreement'],
        weights=values['cost_weights'],
        audit_budget=values['audit_budget'],
        deadline_ms=values['deadline_ms'],
        all_local=values['all_local'],
        profile=values['robot_profile'],
        seed=values['seed'],
        stage_ms={int(stage): float(ms) for stage, ms in times.get('stage_ms', {}).items()},
        exit_ms={int(stage): float(ms) for stage, ms in times.get('exit_ms', {}).items()},
    )


def policy_of(values: Mapping[str, Any], bundle: Bundle, engine: str) -> Policy:
    """The policy these parameters ask for. Raises PolicyError, BundleError."""
    settings = settings_of(values, bundle, engine)
    return make_policy(
        chosen(values, bundle), Facts.of(bundle), settings, bundle_calibration(bundle)
    )


def another(before: Mapping[str, Any], after: Mapping[str, Any], bundle: Bundle) -> bool:
    """Whether a change of parameters needs a new policy, which knows only what is kept for it."""
    name = chosen(after, bundle)
    return name != chosen(before, bundle) or any(
        before[setting] != after[setting] for setting in _MAKES_ANOTHER if setting in READS[name]
    )


def held_stages(values: Mapping[str, Any], bundle: Bundle) -> range | None:
    """The stages a robot has to hold for any plan it may be given; None for all of them."""
    splits = Facts.of(bundle).splits
    # Where no split has an exit before it, all local is the only way to answer.
    return None if values['all_local'] or not splits else range(splits[-1] + 1)


class Memory:
    """Keeps what a policy learned in a directory, one file per node, policy, variant and bundle.

    A thread of its own saves, because a disk may take longer than a frame has. ``lock`` guards the
    policy, and ``complain`` takes what went wrong, in words.
    """

    def __init__(
        self,
        directory: str,
        node: str,
        bundle: Bundle,
        lock: AbstractContextManager[Any],
        complain: Callable[[str], None],
    ) -> None:
        self._directory = Path(directory).expanduser()
        # No name in ROS 2 has two underscores in a row.
        self._node = node.strip('/').replace('/', '__')
        self._fingerprint = bundle.fingerprint.hex()
        self._lock = lock
        self._complain = complain
        self._kept: tuple[StateKeeper, Learned] | None = None
        self._saving = threading.Lock()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._work, name='policy memory', daemon=True)
        self._thread.start()

    def adopt(self, name: str, policy: Policy) -> str:
        """Give a new policy what it once learned and keep it from now on; what came of it."""
        self.save()
        with self._saving:
            self._kept = None
            if not isinstance(policy, Learned):
                return ''
            parts = (self._node, name, *policy.variant, self._fingerprint[:8])
            path = self._directory / f'{"-".join(parts)}.json'
            keeper = StateKeeper(path, name, self._fingerprint)
            well, text = keeper.restore(policy)
            self._kept = keeper, policy
        if well:
            return text
        self._complain(text)
        return ''

    def save(self) -> None:
        """Save now, if there is anything to keep."""
        with self._saving:
            if self._kept is None:
                return
            keeper, policy = self._kept
            try:
                with self._lock:
                    state = policy.state()
            except Exception as error:
                trouble = f'state raised {type(error).__name__}: {error}; nothing is saved'
            else:
                trouble = keeper.save(state)
        if trouble:
            self._complain(trouble)

    def _work(self) -> None:
        while not self._ended.wait(_SAVE_EVERY_S):
            self.save()
        self.save()

    def close(self) -> None:
        """Save for the last time."""
        self._ended.set()
        self._thread.join(_LAST_SAVE_S)
