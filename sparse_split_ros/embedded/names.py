# Copyright 2026 The sparse_split_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Names and arguments: validation, expansion, remapping, ``--ros-args`` and parameter files."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from itertools import takewhile
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import yaml

from sparse_split_ros.embedded.exceptions import (
    InvalidNamespaceException,
    InvalidNodeNameException,
    InvalidTopicNameException,
    NameValidationException,
    UnknownROSArgsError,
)
from sparse_split_ros.embedded.log import LoggingSeverity, severity_from_name

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

_SUBSTITUTION = re.compile(r'\{(node|ns|namespace)\}')
_LOG_SWITCH = re.compile(r'--(enable|disable)-(rosout|stdout|external-lib)-logs$')


def validate_node_name(name: str) -> None:
    """:raises InvalidNodeNameException: if a node cannot have this name."""
    _check(name, r'[A-Za-z0-9_]', InvalidNodeNameException)
    if name[0].isdigit():
        raise InvalidNodeNameException(name, 'must not start with a number', 0)


def validate_namespace(namespace: str) -> None:
    """:raises InvalidNamespaceException: if ``namespace`` is not an absolute namespace."""
    if namespace == '/':
        return
    if not namespace.startswith('/'):
        raise InvalidNamespaceException(namespace, 'must be absolute', 0)
    _check(namespace, r'[A-Za-z0-9_/]', InvalidNamespaceException)
    _check_tokens(namespace, InvalidNamespaceException)


def validate_topic_name(topic: str) -> None:
    """:raises InvalidTopicNameException: if ``topic`` is no valid absolute or relative name."""
    plain = _SUBSTITUTION.sub(lambda found: 'x' * len(found[0]), topic)
    _check(plain, r'[A-Za-z0-9_/~]', InvalidTopicNameException, shown=topic)
    if '~' in plain[1:] or (plain[0] == '~' and len(plain) > 1 and plain[1] != '/'):
        index = plain.find('~', 1) if '~' in plain[1:] else 1
        raise InvalidTopicNameException(topic, "'~' must stand alone before '/'", index)
    _check_tokens(plain, InvalidTopicNameException, shown=topic)


def _check(
    name: str, allowed: str, error: type[NameValidationException], shown: str | None = None
) -> None:
    if not name:
        raise error(name, 'must not be empty', 0)
    for index, char in enumerate(name):
        if not re.match(allowed, char, re.ASCII):
            raise error(shown or name, f'must not contain {char!r}', index)
    if len(name) > 255:
        raise error(shown or name, 'must not be longer than 255 characters', 255)


def _check_tokens(
    name: str, error: type[NameValidationException], shown: str | None = None
) -> None:
    shown = shown or name
    if name.endswith('/'):
        raise error(shown, "must not end with '/'", len(name) - 1)
    if '//' in name:
        raise error(shown, "must not contain '//'", name.index('//') + 1)
    digit = re.search(r'(?:^|/)(\d)', name)
    if digit:
        raise error(shown, 'a part must not start with a number', digit.start(1))


def expand_topic_name(topic: str, node: str, namespace: str) -> str:
    """Return the absolute name of a topic as a node of that name and namespace means it."""
    prefix = namespace.rstrip('/')
    values = {'node': node, 'ns': prefix, 'namespace': prefix}
    topic = _SUBSTITUTION.sub(lambda found: values[found[1]], topic)
    if topic.startswith('~'):
        topic = f'{prefix}/{node}{topic[1:]}'
    return topic if topic.startswith('/') else f'{prefix}/{topic}'


@dataclass(frozen=True)
class Remap:
    """One ``[node:]from:=to``."""

    source: str
    target: str
    node: str | None = None


@dataclass(frozen=True)
class Override:
    """Parameter values for the nodes that a pattern such as ``/**`` or ``/robot/head`` names."""

    pattern: str
    values: dict[str, Any]


@dataclass
class Arguments:
    """What ``--ros-args`` said, in its order, and the arguments that were not for ROS."""

    remaps: list[Remap] = field(default_factory=list)
    overrides: list[Override] = field(default_factory=list)
    log_levels: list[tuple[str, LoggingSeverity]] = field(default_factory=list)
    rest: list[str] = field(default_factory=list)

    @classmethod
    def parse(cls, args: Sequence[str]) -> Arguments:
        """Read a command line.

        :raises UnknownROSArgsError: naming the argument that cannot be understood.
        """
        parsed = cls()
        words = iter(args)
        for word in words:
            if word != '--ros-args':
                parsed.rest.append(word)
                continue
            for option in takewhile(lambda text: text != '--', words):
                if option != '--ros-args':
                    parsed._take(option, words)
        return parsed

    def _take(self, word: str, words: Iterator[str]) -> None:
        word, _, inline = word.partition('=') if word.startswith('--') else (word, '', '')
        if _LOG_SWITCH.match(word):
            return
        if word not in ('-r', '--remap', '-p', '--param', '--params-file', '--log-level',
                        '-e', '--enclave', '--log-file-name', '--log-config-file'):  # fmt: skip
            raise UnknownROSArgsError(f'unknown argument after --ros-args: {word}')
        value = inline or next(words, None)
        if value is None:
            raise UnknownROSArgsError(f'{word} needs a value')
        if word in ('-r', '--remap'):
            if 'rosservice://' not in value:  # there are none here
                self.remaps.append(_parse_remap(value))
        elif word in ('-p', '--param'):
            name, value = _split_rule(value, word)
            node, _, name = name.rpartition(':')
            self.overrides.append(Override(node or '/**', {name: parse_value(value)}))
        elif word == '--params-file':
            self.overrides.extend(load_params_file(Path(value)))
        elif word == '--log-level':
            logger, _, level = value.rpartition(':=')
            try:
                self.log_levels.append((logger, severity_from_name(level)))
            except ValueError as error:
                raise UnknownROSArgsError(f'{word} {value}: {error}') from None

    def node_identity(self, name: str, namespace: str) -> tuple[str, str]:
        """Return the name and namespace of a node after ``__node`` and ``__ns``.

        :raises NameValidationException: if either is not a valid name.
        """
        namespace = namespace if namespace.startswith('/') else f'/{namespace}'
        given = name
        name = self._first(('__node', '__name'), given) or given
        # Rules for the namespace know a node by its new name.
        namespace = self._first(('__ns',), name) or namespace
        validate_node_name(name)
        validate_namespace(namespace)
        return name, namespace

    def _first(self, sources: tuple[str, ...], node: str) -> str | None:
        """Return the target of the first rule for a node with one of these sources."""
        fits = (r.target for r in self.remaps if r.node in (None, node) and r.source in sources)
        return next(fits, None)

    def remap_topic(self, topic: str, node: str, namespace: str) -> str:
        """Return what an absolute topic name is remapped to; the first rule that fits counts."""
        for rule in self.remaps:
            if rule.node in (None, node) and not rule.source.startswith('__'):
                source = rule.source.removeprefix('rostopic://')
                if expand_topic_name(source, node, namespace) == topic:
                    return expand_topic_name(rule.target, node, namespace)
        return topic

    def parameters_of(self, node: str, namespace: str) -> dict[str, Any]:
        """Return the parameter overrides of a node; later ones win."""
        full = f'{namespace.rstrip("/")}/{node}'
        values: dict[str, Any] = {}
        for override in self.overrides:
            if _matches(override.pattern, full):
                values.update(override.values)
        return values


def _split_rule(text: str, option: str) -> tuple[str, str]:
    left, assign, right = text.partition(':=')
    if not assign or not left:
        raise UnknownROSArgsError(f'{option} {text}: expected the form name:=value')
    return left, right


def _parse_remap(text: str) -> Remap:
    left, target = _split_rule(text, '--remap')
    scheme = 'rostopic://' if 'rostopic://' in left else ''
    node, _, source = left.replace(scheme, '').rpartition(':') if scheme else left.rpartition(':')
    if source == '__ns':
        validate_namespace(target)
    elif source in ('__node', '__name'):
        validate_node_name(target)
    else:
        for name in (source, target):
            validate_topic_name(name)
            if '__' in name:
                raise InvalidTopicNameException(name, "must not contain '__'", name.index('__'))
    return Remap(source, target, node or None)


def _matches(pattern: str, full: str) -> bool:
    """Tell whether ``/**`` (any number of names) or ``/*`` (one name) patterns fit a node."""
    pattern = pattern if pattern.startswith('/') else f'/{pattern}'
    expression = ''
    for part in pattern.split('/')[1:]:
        expression += {'**': '(/[^/]+)*', '*': '/[^/]+'}.get(part, re.escape(f'/{part}'))
    return re.fullmatch(expression, full) is not None


class _Loader(yaml.SafeLoader):
    """YAML as rcl reads it: no dates, no sexagesimals, no ``1_000``; ``1e-3`` is a number."""

    yaml_implicit_resolvers: ClassVar[dict[str, Any]] = {}  # type: ignore[misc]
    bool_values: ClassVar[dict[str, bool]] = {
        **yaml.SafeLoader.bool_values, 'y': True, 'n': False
    }  # fmt: skip

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """Names are texts, whatever they look like; what comes twice is merged."""
        found: dict[str, Any] = {}
        for key, value in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise yaml.constructor.ConstructorError(
                    problem='expected a name', problem_mark=key.start_mark
                )
            _merge(found, {key.value: self.construct_object(value, deep=True)})  # type: ignore[no-untyped-call]
        return found


def _merge(into: dict[str, Any], values: dict[str, Any]) -> None:
    for key, value in values.items():
        if isinstance(value, dict) and isinstance(into.get(key), dict):
            _merge(into[key], value)
        else:
            into[key] = value


for _tag, _form, _first in (
    ('null', r'', ['']),  # an empty value, which is refused
    ('bool', r'y|Y|yes|Yes|YES|true|True|TRUE|on|On|ON|n|N|no|No|NO|false|False|FALSE|off|Off|OFF',
     list('yYtToOnNfF')),
    ('int', r'[-+]?(0x[0-9a-fA-F]+|0[0-7]*|[1-9]\d*)', list('-+0123456789')),
    ('float', r'[-+]?((\d+\.?\d*|\.\d+)([eE][-+]?\d+)?|\.?(inf|Inf|INF))|\.?(nan|NaN|NAN)',
     list('-+.0123456789iInN')),
):  # fmt: skip
    _Loader.add_implicit_resolver(f'tag:yaml.org,2002:{_tag}', re.compile(f'^(?:{_form})$'), _first)


def parse_value(text: str) -> Any:
    """Return the value of a parameter written as YAML.

    :raises UnknownROSArgsError: if the text is no value a parameter can have.
    """
    try:
        value = yaml.load(text, _Loader)
    except yaml.YAMLError as error:
        raise UnknownROSArgsError(f'parameter value {text!r} is not YAML: {error}') from None
    return _check_value(value, text)


def _check_value(value: Any, where: str) -> Any:
    items = value if isinstance(value, list) else [value]
    kinds = {type(item) for item in items}
    if len(kinds) > 1 or not kinds <= {bool, int, float, str}:
        raise UnknownROSArgsError(
            f'parameter {where}: {value!r} is not a bool, int, float, string or a list of one kind'
        )
    return value


def load_params_file(path: Path) -> list[Override]:
    """Return what a parameter file says, in its order.

    :raises UnknownROSArgsError: if the file cannot be read or has not the form of a ROS 2
        parameter file (``node: ros__parameters: name: value``).
    """
    try:
        document = yaml.load(path.read_text(encoding='utf-8'), _Loader)
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        reason = ' '.join(str(error).split())
        raise UnknownROSArgsError(f'cannot read the parameter file {path}: {reason}') from None
    if not isinstance(document, dict):
        raise UnknownROSArgsError(f'the parameter file {path} holds no nodes')
    return list(_overrides(document, '', str(path)))


def _overrides(tree: dict[str, Any], prefix: str, path: str) -> Iterator[Override]:
    for key, value in tree.items():
        name = f'{prefix}/{str(key).strip("/")}'
        if not isinstance(value, dict):
            raise UnknownROSArgsError(f'{path}: {name} holds {value!r}, expected ros__parameters')
        if 'ros__parameters' in value:
            yield Override(name, dict(_flatten(value['ros__parameters'] or {}, '', path)))
        rest = {inner: below for inner, below in value.items() if inner != 'ros__parameters'}
        yield from _overrides(rest, name, path)


def _flatten(tree: dict[str, Any], prefix: str, path: str) -> Iterator[tuple[str, Any]]:
    if not isinstance(tree, dict):
        raise UnknownROSArgsError(f'{path}: ros__parameters is {tree!r}, expected names and values')
    for key, value in tree.items():
        name = f'{prefix}{key}'
        if isinstance(value, dict):
            yield from _flatten(value, f'{name}.', path)
        else:
            yield name, _check_value(value, f'{name} in {path}')
