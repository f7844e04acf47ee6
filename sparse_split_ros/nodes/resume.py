# Copyright 2026 The sparse_split_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Resumes a paused ``ros2 bag play`` once somebody listens. Needs ROS 2: it calls services."""

from __future__ import annotations

import time
from collections.abc import Callable

from sparse_split_ros.nodes.entry import listen, stopping

_PATIENCE_S = 30.0
# Of a node that has no parameter services, such as that of `ros2 topic echo`.
_SERVICE_S = 2.0
_CALL_S = 5.0


def main(args: list[str] | None = None) -> int:
    """Wait until those who subscribe to parameter ``topics`` take messages, then resume.

    The player publishes the first of them.
    """
    listen()
    import rclpy
    from rcl_interfaces.srv import ListParameters
    from rclpy.signals import SignalHandlerOptions
    from rosbag2_interfaces.srv import Resume

    rclpy.init(args=args, signal_handler_options=SignalHandlerOptions.NO)
    node = rclpy.create_node('resume_bag')

    def spun_until(there: Callable[[], object], patience: float) -> bool:
        end = time.monotonic() + patience
        while not there():
            if stopping.is_set() or time.monotonic() > end:
                return False
            rclpy.spin_once(node, timeout_sec=0.05)
        return True

    try:
        topics = node.declare_parameter('topics', ['/image']).value
        player = node.create_client(Resume, '/rosbag2_player/resume')
        matched = spun_until(
            lambda: (
                node.count_publishers(topics[0])
                and all(map(node.count_subscribers, topics))
                and player.service_is_ready()
            ),
            _PATIENCE_S,
        )
        # A subscription is seen some 100 ms before its node spins, and what comes meanwhile is
        # lost; a node that answers a call spins.
        listeners = {
            f'{each.node_namespace.rstrip("/")}/{each.node_name}'
            for topic in (topics if matched else ())
            for each in node.get_subscriptions_info_by_topic(topic)
        }
        for name in listeners:
            client = node.create_client(ListParameters, f'{name}/list_parameters')
            if spun_until(client.service_is_ready, _SERVICE_S):
                spun_until(client.call_async(ListParameters.Request()).done, _CALL_S)
        if stopping.is_set():
            return 0
        if not matched:
            unheard = [topic for topic in topics if not node.count_subscribers(topic)]
            missing = f'listens to {", ".join(unheard)}' if unheard else f'publishes {topics[0]}'
            node.get_logger().warning(f'nobody {missing}, playing anyway')
        resumed = spun_until(player.call_async(Resume.Request()).done, _CALL_S)
        return 0 if resumed or stopping.is_set() else 1
    finally:
        node.destroy_node()
        rclpy.try_shutdown()


if __name__ == '__main__':
    raise SystemExit(main())
