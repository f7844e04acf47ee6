# Copyright 2026 The sparse_split_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Draw a folder of images for two tasks, after the 3D Shapes on which MTL-Split was published.

    python benchmarks/shapes.py SHAPES

As in 3D Shapes (Burgess and Kim, 2018) an object of 4 types and 8 sizes stands in a room, seen
from 15 directions; object, floor and wall have ten hues each. `size` and `type` are to be told.
Some pixels are black or white, without which both tasks are too easy. Drawn by sphere tracing.
"""

from __future__ import annotations

import argparse
import csv
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

Floats = NDArray[np.float64]
SIZES = np.linspace(0.65, 1.0, 8)
ANGLES = np.radians(np.linspace(-30, 30, 15))
HUES = 10
CAMERA, TARGET, WALL = np.array([0.0, 1.6, 4.5]), np.array([0.0, 0.6, 0.0]), -2.0
LIGHT = np.array([0.4, 0.8, 0.45])
STEPS, CLOSE = 40, 1e-3


def _box(q: Floats) -> Floats:
    """The distance to a box, from how far a point is outside of it along each axis."""
    outside: Floats = np.linalg.norm(np.maximum(q, 0), axis=-1)
    inside: Floats = np.minimum(q.max(-1), 0)
    return outside + inside


def _cylinder(p: Floats) -> Floats:
    radius = np.hypot(p[..., 0], p[..., 2])
    return _box(np.stack([radius - 0.6, np.abs(p[..., 1]) - 0.6], -1))


def _capsule(p: Floats) -> Floats:
    along = np.clip(p[..., 1], -0.3, 0.3)
    distance: Floats = np.linalg.norm(p - along[..., None] * (0, 1, 0), axis=-1)
    return distance - 0.4


OBJECTS: dict[str, tuple[float, Callable[[Floats], Floats]]] = {
    'capsule': (0.7, _capsule),
    'cube': (0.55, lambda p: _box(np.abs(p) - 0.55)),
    'cylinder': (0.6, _cylinder),
    'sphere': (0.65, lambda p: np.linalg.norm(p, axis=-1) - 0.65),
}
"""Of each type: half its height and the distance to it, at size 1 around the origin."""


def render(kind: str, size: float, angle: float, hues: NDArray[np.int64], side: int) -> Floats:
    """A scene (side, side, 3) in 0 to 1; `hues` are of object, floor and wall, 0 to 9."""
    half, distance = OBJECTS[kind]
    rays = _rays(angle, side)
    start = _turned(CAMERA, angle)
    floor = -start[1] / np.minimum(rays[..., 1], -1e-9)
    wall = (WALL - start[2]) / np.minimum(rays[..., 2], -1e-9)
    behind = np.minimum(floor, wall)

    def far(points: Floats) -> Floats:
        return size * distance((points - (0, half * size, 0)) / size)

    travelled = np.zeros(rays.shape[:2])
    for _ in range(STEPS):
        travelled += far(start + travelled[..., None] * rays)
    points = start + travelled[..., None] * rays
    hit = (far(points) < 10 * CLOSE) & (travelled < behind)
    normal = np.stack([far(points + CLOSE * axis) - far(points) for axis in np.eye(3)], -1)
    light = np.clip(normal @ LIGHT / CLOSE, 0, 1)
    colours = _colours(hues)
    image: Floats = np.where((floor < wall)[..., None], colours[1], 0.8 * colours[2])
    image = np.where(hit[..., None], (0.35 + 0.65 * light[..., None]) * colours[0], image)
    return image


def _turned(vector: Floats, angle: float) -> Floats:
    c, s = np.cos(angle), np.sin(angle)
    turned: Floats = vector @ np.array([[c, 0, -s], [0, 1, 0], [s, 0, c]])
    return turned


def _rays(angle: float, side: int) -> Floats:
    """The directions (side, side, 3) in which the pixels look, from a camera turned by `angle`."""
    ahead = (TARGET - CAMERA) / np.linalg.norm(TARGET - CAMERA)
    right = np.array([1.0, 0.0, 0.0])
    down = np.cross(ahead, right)
    steps = (np.arange(side) + 0.5) / side - 0.5
    rays: Floats = ahead + 0.7 * (steps[None, :, None] * right + steps[:, None, None] * down)
    return _turned(rays / np.linalg.norm(rays, axis=-1, keepdims=True), angle)


def _colours(hues: NDArray[np.int64]) -> Floats:
    hsv = np.stack([hues * 180 // HUES, np.full(3, 220), np.full(3, 230)], -1).astype(np.uint8)
    rgb: Floats = cv2.cvtColor(hsv[None], cv2.COLOR_HSV2RGB)[0] / 255.0
    return rgb


def speckled(rng: np.random.Generator, image: Floats, share: float) -> NDArray[np.uint8]:
    """The image as bytes, a share of its pixels black or white."""
    specks = rng.random((*image.shape[:2], 1)) < share
    image = np.where(specks, rng.integers(2, size=specks.shape), image)
    pixels: NDArray[np.uint8] = (255 * image).round().astype(np.uint8)
    return pixels


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('out', type=Path, help='the folder, which may not be there yet')
    parser.add_argument('--count', type=int, default=20_000, help='images (%(default)s)')
    parser.add_argument('--side', type=int, default=32, help='pixels (%(default)s)')
    parser.add_argument('--noise', type=float, default=0.2, help='of the pixels (%(default)s)')
    parser.add_argument('--seed', type=int, default=0)
    options = parser.parse_args()
    options.out.mkdir(parents=True)
    rng = np.random.default_rng(options.seed)
    with (options.out / 'labels.csv').open('w', newline='', encoding='utf-8') as file:
        table = csv.writer(file)
        table.writerow(['file', 'size', 'type'])
        for number in tqdm(range(options.count), unit='image'):
            kind = list(OBJECTS)[rng.integers(len(OBJECTS))]
            size, angle = rng.integers(len(SIZES)), rng.choice(ANGLES)
            hues = rng.integers(HUES, size=3)
            image = render(kind, SIZES[size], angle, hues, options.side)
            name = f'{number:06}.png'
            pixels = speckled(rng, image, options.noise)
            cv2.imwrite(str(options.out / name), cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR))
            table.writerow([name, size, kind])


if __name__ == '__main__':
    main()
