# Copyright 2026 The sparse_split_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Send messages to an echoing peer process and demand them back, field for field.

Runs in a network namespace that has nothing but a loopback interface, since not every peer can be
told to stay on this host. Arguments: message type, domain, then the command that starts the peer.
"""

from __future__ import annotations

import fcntl
import os
import socket
import struct
import subprocess
import sys
import time
from array import array

SIOCSIFFLAGS, UP_AND_MULTICAST = 0x8914, 0x1 | 0x1000


def raise_loopback() -> None:
    """Switch `lo` on, which a fresh namespace leaves off."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as handle:
        fcntl.ioctl(handle, SIOCSIFFLAGS, struct.pack('16sh22x', b'lo', UP_AND_MULTICAST))


def main() -> None:
    type_name, domain, *command = sys.argv[1:]
    raise_loopback()
    os.environ.update(ROS_DOMAIN_ID=domain, SPARSE_SPLIT_RUNTIME='embedded')
    from sparse_split_ros import ros

    image = ros.CompressedImage(format='sparse_split/1', data=array('B', os.urandom(50_000)))
    image.header.stamp = ros.TimeMsg(sec=12, nanosec=345)
    image.header.frame_id = 'camera'
    sent = {
        'std_msgs/msg/String': [ros.String(data='grüße'), ros.String(data='')],
        'sensor_msgs/msg/CompressedImage': [image, ros.CompressedImage(format='empty')],
    }[type_name]
    cls = type(sent[0])

    ros.init(args=[])
    node = ros.Node('interop')
    got: list[object] = []
    qos = ros.QoSProfile(depth=10)
    node.create_subscription(cls, '/out', got.append, qos)
    publisher = node.create_publisher(cls, '/in', qos)
    peer = subprocess.Popen(command)
    try:
        end = time.monotonic() + 30
        while not (publisher.get_subscription_count() and node.count_publishers('/out')):
            assert time.monotonic() < end and peer.poll() is None, 'the peer did not show up'
            ros.spin_once(node, timeout_sec=0.05)
        for msg in sent:
            got.clear()
            while not got:  # sent anew until the peer, too, has seen that we listen
                assert time.monotonic() < end, f'{msg!r:.200} did not come back'
                publisher.publish(msg)
                ros.spin_once(node, timeout_sec=0.5)
            assert msg in got, f'{msg!r:.200} came back as {got[0]!r:.200}'
        print(f'{len(sent)} messages of {type_name} came back unchanged')
    finally:
        peer.kill()
        peer.wait()
        node.destroy_node()
        ros.shutdown()


main()
