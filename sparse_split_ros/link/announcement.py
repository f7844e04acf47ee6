# Copyright 2026 The sparse_split_ros authors
# SPDX-License-Identifier: Apache-2.0
"""What a tail says of itself on ``tail/status``, latched and twice a second."""

from __future__ import annotations

import json
import re
from dataclasses import asdict, dataclass

from sparse_split_ros.link.frame import VERSION

_MAX_CHARACTERS = 4096
_MAX_NAME = 256
_MAX_FINGERPRINTS = 64
_FINGERPRINT = re.compile('[0-9a-f]{16}')


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
        if len(text) > _MAX_CHARACTERS:
            raise AnnouncementError(
                f'tail status of {len(text)} characters, at most {_MAX_CHARACTERS}'
            )
        try:
            fields = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise AnnouncementError(f'tail status {text[:40]!r} is not JSON: {error}') from error
        if not isinstance(fields, dict):
            raise AnnouncementError(f'tail status is a JSON {type(fields).__name__}, not an object')
        expected = {'tail': str, 'session': int, 'fingerprints': list, 'version': int}
        for name, kind in expected.items():
            # JSON's true is an int in Python, and no session.
            if type(fields.get(name)) is not kind:
                found = repr(fields.get(name))[:40]
                raise AnnouncementError(
                    f'tail status has {name} = {found}, expected a {kind.__name__}'
                )
        # Both are shown to people and published again, so neither may hold what cannot be.
        if not fields['tail'].isprintable() or len(fields['tail']) > _MAX_NAME:
            raise AnnouncementError(
                f'tail status has a name that is not printable or above {_MAX_NAME} characters'
            )
        prints = fields['fingerprints']
        if len(prints) > _MAX_FINGERPRINTS or not all(
            isinstance(item, str) and _FINGERPRINT.fullmatch(item) for item in prints
        ):
            raise AnnouncementError(
                f'tail status has fingerprints that are not at most {_MAX_FINGERPRINTS} strings '
                'of 16 hexadecimal digits'
            )
        return cls(
            fields['tail'], fields['session'], tuple(fields['fingerprints']), fields['version']
        )
