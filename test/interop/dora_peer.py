# Copyright 2026 The sparse_split_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Echo one topic with dora-rs, whose RustDDS shares no code with ours: `in` comes back on `out`.

Argument: the message type, as in std_msgs/String. The environment says which domain and where the
message definitions are (ROS_DOMAIN_ID, AMENT_PREFIX_PATH).
"""

from __future__ import annotations

import sys
import time

import dora

message_type = sys.argv[1]
context = dora.Ros2Context()
node = context.new_node('peer', '/dora', dora.Ros2NodeOptions(rosout=False))
qos = dora.Ros2QosPolicies(reliable=True, keep_last=10)
publisher = node.create_publisher(node.create_topic('/out', message_type, qos))
subscription = node.create_subscription(node.create_topic('/in', message_type, qos))
while True:
    value = subscription.next()
    if value is None:
        time.sleep(0.001)  # `next` does not block
    else:
        publisher.publish(value)
