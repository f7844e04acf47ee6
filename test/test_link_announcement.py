# Copyright 2026 The sparse_split_ros authors
# SPDX-License-Identifier: Apache-2.0
"""A tail's status: read back as written, and anything else is refused by name."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparse_split_ros.link.announcement import Announcement, AnnouncementError

GOOD = {'tail': 'host/tail', 'session': 5, 'fingerprints': ['00' * 8], 'version': 1}

fingerprint = st.binary(min_size=8, max_size=8).map(bytes.hex)
announcements = st.builds(
    Announcement,
    tail=st.text(st.characters(categories=['L', 'N', 'P']), max_size=40),
    session=st.integers(0, 2**32 - 1),
    fingerprints=st.lists(fingerprint, max_size=5).map(tuple),
    version=st.integers(0, 255),
)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner),
    max_leaves=6,
)


@given(announcements)
def test_an_announcement_survives_the_wire(announcement: Announcement) -> None:
    assert Announcement.from_json(announcement.to_json()) == announcement


@given(st.text(max_size=200) | json_values.map(json.dumps))
def test_any_other_text_is_refused(text: str) -> None:
    with pytest.raises(AnnouncementError, match='tail status'):
        Announcement.from_json(text)


@given(st.sampled_from(sorted(GOOD)), json_values)
def test_any_value_in_any_field_is_taken_or_refused(field: str, value: object) -> None:
    try:
        read = Announcement.from_json(json.dumps({**GOOD, field: value}))
    except AnnouncementError as error:
        assert 'tail status has' in str(error)
    else:
        assert type(read.session) is int and read.tail.isprintable()


WRONG = [
    ('[]', 'a JSON list, not an object'),
    ('{', 'is not JSON'),
    ('[' * 3000, 'is not JSON'),
    ('"' + 'x' * 5000 + '"', '5002 characters, at most 4096'),
    (json.dumps({**GOOD, 'session': True}), 'session = True, expected a int'),
    (json.dumps({**GOOD, 'session': '5'}), "session = '5'"),
    (json.dumps({**GOOD, 'tail': None}), 'tail = None'),
    (json.dumps({**GOOD, 'tail': '\ud800'}), 'not printable'),
    (json.dumps({**GOOD, 'tail': 'a\nERROR b'}), 'not printable'),
    (json.dumps({**GOOD, 'tail': 'x' * 257}), 'above 256'),
    (json.dumps({**GOOD, 'fingerprints': [1]}), '16 hexadecimal digits'),
    (json.dumps({**GOOD, 'fingerprints': ['0' * 15]}), '16 hexadecimal digits'),
    (json.dumps({**GOOD, 'fingerprints': ['0' * 16] * 65}), 'at most 64'),
]


@pytest.mark.parametrize(('text', 'message'), WRONG)
def test_what_is_wrong_is_named(text: str, message: str) -> None:
    with pytest.raises(AnnouncementError, match=message):
        Announcement.from_json(text)


def test_a_newer_tail_may_say_more() -> None:
    assert Announcement.from_json(json.dumps({**GOOD, 'load': 0.5})).session == 5
