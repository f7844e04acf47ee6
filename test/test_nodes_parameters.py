# Copyright 2026 The sparse_split_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Parameters of a running head: a change is taken whole, or refused with a reason."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from bundles import make_bundle
from processes import private_domain

from sparse_split_ros import ros
from sparse_split_ros.nodes.head import HeadNode
from sparse_split_ros.nodes.parameters import HEAD, PLAYER, TAIL, Parameters, Spec
from sparse_split_ros.policy.cost import WEIGHTS
from sparse_split_ros.policy.joint import JointPolicy
from sparse_split_ros.ros import Context, Node, Parameter


@contextmanager
def running(directory: Path, **given: object) -> Iterator[HeadNode]:
    """A head in a domain of its own, started with these parameters."""
    given['bundle'] = str(make_bundle(directory / 'bundle').path)
    with private_domain() as domain:
        context = Context()
        ros.init(args=[], context=context, domain_id=domain)
        node = HeadNode(
            context=context, parameter_overrides=[Parameter(k, value=v) for k, v in given.items()]
        )
        yield node
        node.stop()
        node.destroy_node()
        context.try_shutdown()


@pytest.fixture(scope='module')
def head(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HeadNode]:
    with running(tmp_path_factory.mktemp('parameters')) as node:
        yield node


def change(head: HeadNode, **values: object) -> str:
    """Set parameters together; the reason of a refusal, or nothing."""
    result = head.set_parameters_atomically([Parameter(k, value=v) for k, v in values.items()])
    assert result.successful == (not result.reason)
    return str(result.reason)


def test_the_bundles_defaults_hold_where_nothing_is_set(head: HeadNode) -> None:
    plan = head.head.policy.choose(None, None)  # type: ignore[arg-type]
    defaults = head.bundle.defaults
    assert (plan.split, plan.codec) == (defaults.split, defaults.codec)
    assert plan.thresholds[0] == defaults.threshold


def test_tuning_is_taken_at_once(head: HeadNode) -> None:
    assert change(head, threshold=0.75, split=0, codec='fp16', deadline_ms=250.0) == ''
    plan = head.head.policy.choose(None, None)  # type: ignore[arg-type]
    assert (plan.split, plan.codec, plan.thresholds) == (0, 'fp16', (0.75, None, None))
    assert head.head.deadline == 0.25
    assert change(head, roi=[1, 2, 3, 4], max_results=2) == ''
    assert head.settings.roi == [1, 2, 3, 4] and head.settings.max_results == 2


def test_what_is_not_ours_or_stays_changes_nothing(
    head: HeadNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[dict[str, Any]] = []
    monkeypatch.setattr(head.settings, '_accept', asked.append)
    assert change(head, use_sim_time=False, max_results=head.settings.max_results) == ''
    assert asked == []
    assert change(head, max_results=head.settings.max_results + 1) == ''
    assert len(asked) == 1


@pytest.mark.parametrize(
    ('values', 'words'),
    [
        ({'split': 3}, ('no split after stage 3', '[0, 1]')),
        ({'codec': 'none+zstd'}, ('none+zstd', 'not calibrated')),
        ({'codec': 'jpeg'}, ('codec', 'jpeg', 'int8')),
        ({'policy': 'guess'}, ('policy', 'guess', 'joint')),
        ({'policy': 'joint', 'codec': 'none+zstd'}, ('none+zstd', 'int8')),
        ({'target_disagreement': 0.9}, ('target_disagreement',)),
        ({'cost_weights': 'free'}, ('cost_weights', 'latency')),
        ({'audit_budget': 0.5}, ('audit_budget',)),
        ({'robot_profile': 2.0}, ('robot_profile',)),
        ({'roi': [1, 2]}, ('roi', '4 numbers')),
        ({'roi': [0, 0, -5, 5]}, ('roi', '-5', 'width')),
        ({'threshold': 1.5}, ('threshold',)),
        ({'deadline_ms': 0.0}, ('deadline_ms',)),
        ({'threads': 2}, ('threads',)),
        ({'bundle': 'other'}, ('bundle',)),
    ],
)
def test_what_cannot_be_is_refused_with_a_reason(
    head: HeadNode, values: dict[str, object], words: tuple[str, ...]
) -> None:
    before = head.settings.values
    reason = change(head, **values)
    assert reason and all(word in reason for word in words), reason
    assert head.settings.values == before


def test_a_policy_keeps_what_it_learned_through_live_changes(head: HeadNode) -> None:
    assert change(head, policy='joint', codec='', target_disagreement=0.02) == ''
    policy = head.head.policy
    assert isinstance(policy, JointPolicy) and policy.target == 0.02
    assert change(head, target_disagreement=0.005, audit_budget=0.05, deadline_ms=80.0) == ''
    assert change(head, cost_weights='frugal') == ''
    assert head.head.policy is policy
    assert (policy.target, policy.budget.share, policy.costs.deadline_ms) == (0.005, 0.05, 80.0)
    assert policy.costs.weights == WEIGHTS['frugal'] and head.head.deadline == 0.08
    assert change(head, policy='fixed') == ''


def test_a_name_that_no_parameter_has_is_said_and_does_no_harm(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / 'parameters.yaml'
    misspelt = {'rtae': 2.0, 'shutter_us': 4, 'rate': 3.0}
    misspelt |= {'use_sim_time': False, 'qos_overrides': {'/image': {'publisher': {'depth': 2}}}}
    file.write_text(json.dumps({'/**': {'ros__parameters': misspelt}}))
    context = Context()
    with private_domain() as domain:
        ros.init(args=['--ros-args', '--params-file', str(file)], context=context, domain_id=domain)
        node = Node('player', context=context)
        assert Parameters(node, PLAYER).rate == 3.0
        node.destroy_node()
        context.try_shutdown()
    said = capfd.readouterr().err
    assert "without effect: 'rtae' (is it 'rate'?), 'shutter_us'" in said
    assert 'use_sim_time' not in said and 'qos_overrides' not in said


def test_one_wrong_value_keeps_the_right_ones_out_as_well(head: HeadNode) -> None:
    policy, before = head.head.policy, head.settings.values
    assert change(head, threshold=0.5, split=99)
    assert head.settings.values == before and head.head.policy is policy


@pytest.mark.parametrize('spec', [*HEAD, *TAIL, *PLAYER], ids=lambda spec: spec.name)
def test_every_parameter_has_a_description_and_its_default_fits(spec: Spec) -> None:
    assert len(spec.description) > 10
    if spec.choices:
        assert spec.default in spec.choices
    if spec.low is not None and spec.high is not None:
        assert spec.low <= spec.default <= spec.high


def test_a_quality_of_service_is_overridden_for_its_own_topic_alone(tmp_path: Path) -> None:
    given = {
        'cameras': ['front', 'left'],
        'qos_overrides./features.publisher.reliability': 'reliable',
        'qos_overrides./front/image.subscription.depth': 7,
    }
    with running(tmp_path, **given) as head:
        held = {
            name: head.get_parameter(f'qos_overrides./{name}').value
            for name in (
                'features.publisher.reliability',
                'tail/reply.subscription.reliability',
                'front/image.subscription.depth',
                'left/image.subscription.depth',
            )
        }
    assert list(held.values()) == ['reliable', 'best_effort', 7, 1]


def test_images_lost_on_the_way_are_counted_and_said_once_with_what_may_help(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    told = []

    def subscribe(*arguments: Any, lost: Callable[[int], None], **options: Any) -> Any:
        told.append(lost)
        return ros.subscribe(*arguments, lost=lost, **options)

    monkeypatch.setattr('sparse_split_ros.nodes.head.subscribe', subscribe)
    with running(tmp_path) as head:
        for count in (9, 1, 1):
            told[0](count)
            head._diagnose()
        assert head.lost == 11
    said = capfd.readouterr()
    (line,) = [line for line in (said.out + said.err).splitlines() if 'were lost' in line]
    assert '10 images were lost on their way here, 0 arrived' in line
    assert 'qos_overrides./image.subscription.reliability: reliable' in line
