# Copyright 2026 The sparse_split_ros authors
# SPDX-License-Identifier: Apache-2.0
"""A domain of this host alone, so that no robot nearby takes our frames for its camera's."""

from __future__ import annotations

import os
import random
import socket
from collections.abc import Iterator
from contextlib import contextmanager


class DomainError(Exception):
    """No domain is free on this host; the message names those that were tried."""


@contextmanager
def private_domain(domains: range) -> Iterator[int]:
    """One of ``domains`` that nobody uses, for this process and the processes it starts.

    Raises DomainError.
    """
    domain = _free(domains)
    ours = {'ROS_DOMAIN_ID': str(domain), 'ROS_AUTOMATIC_DISCOVERY_RANGE': 'LOCALHOST'}
    # Humble knows no range, and later ones warn of its predecessor.
    if os.environ.get('ROS_DISTRO', 'humble') == 'humble':
        ours['ROS_LOCALHOST_ONLY'] = '1'
        # It chooses the interface, and the same one named by the user as well would be an error.
        ours['CYCLONEDDS_URI'] = ''
    before = {name: os.environ.get(name) for name in ours}
    os.environ.update(ours)
    try:
        yield domain
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _free(domains: range) -> int:
    for domain in random.SystemRandom().sample(domains, len(domains)):
        # The ports of the first participants, from the DDSI-RTPS specification, 9.6.1.1.
        first = 7400 + 250 * domain + 10
        try:
            for port in range(first, first + 8, 2):
                with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
                    probe.bind(('', port))
        except OSError:
            continue
        return domain
    raise DomainError(f'every domain from {domains[0]} to {domains[-1]} is in use on this host')
