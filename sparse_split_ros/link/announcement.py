# Copyright 2026 The sparse_split_ros authors
# SPDX-License-Identifier: Apache-2.0
"""What a tail says of itself on ``tail/status``, latched and twice a second."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass

from sparse_split_ros.link.frame import VERSION

_MAX_BYTES = 65_536


class AnnouncementError(ValueError):
    """A tail's status that cannot be read; the message names what is wrong."""


@dataclass(frozen=True)
class Announcement:
    """A tail's identity: ``tail`` names the node, ``session`` this start of it.

    ``fingerprints`` are the bundles it serves, in hexadecimal; ``version`` the frame format.
    """

    tail: str
    session: int
    fingerprints: tuple[str, ...]
    version: int = VERSION

    def to_json(self) -> str:
        """The text of the ``std_msgs/String``."""
        return json.dumps(asdict(self), sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> Announcement:
        """Read a status; raises AnnouncementError naming the first field that is wrong."""
        if len(text) > _MAX_BYTES:
            raise AnnouncementError(f'tail status of {len(text)} characters, at most {_MAX_BYTES}')
        try:
            fields = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise AnnouncementError(f'tail status {text[:40]!r} is not JSON: {error}') from error
        if not isinstance(fields, dict):
            raise AnnouncementError(f'tail status is a JSON {type(fields).__name__}, not an object')
        expected = {'tail': str, 'session': int, 'fingerprints': list, 'version': int}
        for name, kind in expected.items():
            if not isinstance(fields.get(name), kind):
                raise AnnouncementError(
                    f'tail status has {name} = {fields.get(name)!r}, expected a {kind.__name__}'
                )
        if not all(isinstance(item, str) for item in fields['fingerprints']):
            raise AnnouncementError('tail status has fingerprints that are not strings')
        return cls(
            fields['tail'], fields['session'], tuple(fields['fingerprints']), fields['version']
        )
