# Copyright 2026 The sparse_split_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Resumes a paused ``ros2 bag play`` once somebody listens. Needs ROS 2: it calls a service."""

from __future__ import annotations

import time

_PATIENCE_S = 30.0


def main(args: list[str] | None = None) -> int:
    """Wait for a publisher and a subscriber of parameter ``topic``, then resume the player."""
    import rclpy
    from rosbag2_interfaces.srv import Resume

    rclpy.init(args=args)
    node = rclpy.create_node('resume_bag')
    try:
        topic = node.declare_parameter('topic', '/image').value
        client = node.create_client(Resume, '/rosbag2_player/resume')
        end = time.monotonic() + _PATIENCE_S
        while not (
            node.count_publishers(topic)
            and node.count_subscribers(topic)
            and client.service_is_ready()
        ):
            if time.monotonic() > end:
                node.get_logger().warning(f'nobody listens to {topic}, playing anyway')
                break
            rclpy.spin_once(node, timeout_sec=0.05)
        future = client.call_async(Resume.Request())
        rclpy.spin_until_future_complete(node, future, timeout_sec=5.0)
        return 0 if future.done() else 1
    finally:
        node.destroy_node()
        rclpy.try_shutdown()


if __name__ == '__main__':
    raise SystemExit(main())
