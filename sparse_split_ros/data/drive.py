# Copyright 2026 The sparse_split_ros authors
# SPDX-License-Identifier: Apache-2.0
"""A drawn drive: what a sign detector's crops look like from a car, through light and weather.

Each track is one sign approached: its crop grows from 16 to 128 pixels while the background,
which is far away, does not. The light on sign and background, the softness and the colours follow
the distributions of the GTSRB photographs.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from sparse_split_ros.data import weather
from sparse_split_ros.data.bags import Frame
from sparse_split_ros.data.signs import CLASSES, draw_sign

START_NS = 1_760_000_000_000_000_000
"""The first stamp of what was recorded without any, so that replays are alike."""
SCENES = ('day', 'dusk', 'night', 'glare', 'fog', 'rain', 'snow')

Light = npt.NDArray[np.float32]
Progress = Callable[[int, int], None]

# The drawn plane around a sign is this much wider than the sign, for its post and plates.
_PLANE = 1.75
# Classes on triangular boards.
_TRIANGLES = frozenset({11, 13, *range(18, 32)})
# Seconds over which one scene turns into the next.
_TURN_S = 1.2


class DriveError(ValueError):
    """A drive was asked for that cannot be rendered."""


@dataclass(frozen=True)
class Drive:
    """What to render; equal drives give equal bytes.

    `tracks_per_scene` signs in each of `scenes`, one after the other, `frames_per_track` frames
    each at `rate` Hz, crops growing from `smallest` to `largest` pixels. `start_ns` is the first
    stamp. `severity` is where the weather settles, in [0, 1].
    """

    seed: int = 1
    tracks_per_scene: int = 6
    frames_per_track: int = 30
    scenes: tuple[str, ...] = SCENES
    rate: float = 30.0
    smallest: int = 16
    largest: int = 128
    severity: float = 0.55
    start_ns: int = START_NS
    frame_id: str = 'camera'

    def __post_init__(self) -> None:
        if unknown := [scene for scene in self.scenes if scene not in weather.CONDITIONS]:
            raise DriveError(
                f"unknown scene '{unknown[0]}': expected some of {', '.join(weather.CONDITIONS)}"
            )
        if not self.scenes or self.tracks_per_scene < 1 or self.frames_per_track < 2:
            raise DriveError('a drive needs a scene, a track in each and two frames in a track')
        if not 8 <= self.smallest <= self.largest <= 512:
            raise DriveError(
                f'crops of {self.smallest} to {self.largest} pixels: expected 8 <= smallest <= '
                'largest <= 512'
            )
        if not (math.isfinite(self.rate) and self.rate > 0.0) or self.start_ns < 0:
            raise DriveError(
                f'rate {self.rate} Hz from stamp {self.start_ns} ns is not a time line'
            )
        if not 0.0 <= self.severity <= 1.0:
            raise DriveError(f'severity {self.severity} is outside 0..1')
        if self.seed < 0:
            raise DriveError(f'seed {self.seed} is negative')

    @property
    def tracks(self) -> int:
        """Signs passed on the whole drive."""
        return self.tracks_per_scene * len(self.scenes)

    @property
    def frames(self) -> int:
        """Frames of the whole drive."""
        return self.tracks * self.frames_per_track


def render_drive(drive: Drive, progress: Progress | None = None) -> Iterator[Frame]:
    """Render the frames in time order, (H, W, 3) uint8 RGB each; `progress(done, total)`."""
    labels = _itinerary(drive)
    for number, class_id in enumerate(labels):
        track = _Track(np.random.default_rng([drive.seed, 1, number]), class_id)
        for step in range(drive.frames_per_track):
            index = number * drive.frames_per_track + step
            along = step / (drive.frames_per_track - 1)
            # Constant speed: the distance falls linearly, the size is its inverse.
            size = drive.smallest / (1.0 - along * (1.0 - drive.smallest / drive.largest))
            scene, severity, conditions = _weather_at(drive, index)
            image = track.frame(
                size,
                along,
                conditions,
                np.random.default_rng([drive.seed, 2, index]),
                (drive.seed, 3, number),
            )
            stamp = drive.start_ns + round(index * 1e9 / drive.rate)
            yield Frame(stamp, drive.frame_id, image, CLASSES[class_id], scene, severity)
            if progress is not None:
                progress(index + 1, drive.frames)


def random_crop(
    rng: np.random.Generator, class_id: int, size: int, scene: str = 'day', severity: float = 0.0
) -> npt.NDArray[np.uint8]:
    """One crop of a sign never seen before and never again, for training: (size, size, 3) uint8.

    The sign is rendered at the resolution of a random moment of its approach and then resized.
    """
    source = math.exp(rng.uniform(math.log(18.0), math.log(max(24.0, 2.5 * size))))
    track = _Track(rng, class_id, largest=source)
    field = (int(rng.integers(2**31)),)
    image = track.frame(source, rng.uniform(0.0, 1.0), [(scene, severity)], rng, field)
    method = cv2.INTER_AREA if image.shape[0] > size else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(image, (size, size), interpolation=method), np.uint8)


def _itinerary(drive: Drive) -> list[int]:
    """A class for every track: all 43 in random order, and again for longer drives."""
    rng = np.random.default_rng([drive.seed, 0])
    rounds = -(-drive.tracks // len(CLASSES))
    order = np.concatenate([rng.permutation(len(CLASSES)) for _ in range(rounds)])
    return [int(class_id) for class_id in order[: drive.tracks]]


def _weather_at(drive: Drive, index: int) -> tuple[str, float, list[tuple[str, float]]]:
    """The scene of a frame, its severity, and every condition to apply to it.

    Around a border the old scene fades while the new one rises, so both are there for a moment.
    """
    length = drive.tracks_per_scene * drive.frames_per_track
    at, place = divmod(index, length)
    turn = min(_TURN_S * drive.rate, length / 3.0)
    swell = drive.severity * (1.0 + 0.25 * math.sin(2.0 * math.pi * place / length * 1.5 - 0.8))
    severity = min(1.0, swell)
    inside = place + 0.5
    into, out = 0.5 + inside / turn, 0.5 + (length - inside) / turn
    conditions = []
    if at > 0 and into < 1.0:
        conditions.append((drive.scenes[at - 1], severity * (1.0 - into)))
        severity *= into
    elif at + 1 < len(drive.scenes) and out < 1.0:
        conditions.append((drive.scenes[at + 1], severity * (1.0 - out)))
        severity *= out
    scene = drive.scenes[at]
    conditions.append((scene, severity))
    # Day is the absence of weather: it has no severity.
    named = 0.0 if scene == 'day' else severity
    return scene, named, [(name, amount) for name, amount in conditions if name != 'day']


class _Track:
    """One sign on one stretch of road, with all that stays the same while it is approached."""

    def __init__(self, rng: np.random.Generator, class_id: int, largest: float = 128.0) -> None:
        self._share = rng.uniform(0.74, 0.88)
        self._aspect = rng.normal(1.0, 0.025)
        if class_id in _TRIANGLES:
            # Their boxes are wider than tall, and the crops of a detector are made square.
            self._share, self._aspect = self._share * 1.13, self._aspect * 0.95
        self._yaw = rng.normal(0.0, 14.0)
        self._pitch = rng.normal(0.0, 5.0)
        self._roll = rng.normal(0.0, 2.5)
        self._drift = rng.normal(0.0, (0.35, 0.15)) * largest
        # Brightness of white on the sign, and of the background: both log-normal and, against
        # the light, opposed; fitted to the percentiles of GTSRB.
        self._light = float(np.clip(np.exp(rng.normal(math.log(0.56), 0.52)), 0.2, 1.35))
        self._against = rng.random() < 0.15
        self._behind = float(np.clip(np.exp(rng.normal(0.0, 0.3)) * self._light**0.6, 0.3, 1.5))
        if self._against:
            self._light *= 0.45
            self._behind *= 1.6
        self._cast = 1.0 + rng.normal(0.0, 0.035, 3).astype(np.float32)
        self._veil = abs(rng.normal(0.0, 0.025)) + 0.01
        self._colourful = rng.uniform(0.62, 1.0)
        self._soft = rng.uniform(0.3, 0.6) + (rng.uniform(0.2, 0.7) if rng.random() < 0.2 else 0)
        self._crisp = rng.uniform(0.0, 0.9)
        self._shake = abs(rng.normal(0.0, 0.7))
        self._shake_angle = rng.uniform(0.0, 180.0)
        self._grain = rng.uniform(0.004, 0.016)
        self._flicker = rng.uniform(0.0, 2.0 * math.pi)
        self._largest = largest
        extent = 24 + math.ceil(1.5 * largest + 2.0 * float(np.abs(self._drift).max()))
        self._background = _background(rng, extent)
        self._plane = _board(rng, class_id, largest * self._share * 1.15)
        self._mips: dict[int, Light] = {}

    def frame(
        self,
        size: float,
        along: float,
        conditions: Sequence[tuple[str, float]],
        rng: np.random.Generator,
        field: Sequence[int],
    ) -> npt.NDArray[np.uint8]:
        """Render the crop of about `size` pixels at `along` in [0, 1] of the approach.

        `rng` draws what changes from frame to frame; `field` seeds the weather that stays.
        """
        pixels = max(8, round(size * (1.0 + 0.5 * rng.normal(0.0, 0.03))))
        light, behind = self._light, self._behind
        for name, severity in conditions:
            dim = min(1.0, 2.0 * severity)
            # With the sun gone, light comes evenly from the sky, or from the car's own lamps: it
            # comes back from the sign's foil and not from the trees.
            if name in ('dusk', 'night', 'fog'):
                light += dim * (0.85 * (light / 0.85) ** 0.3 - light)
            if name == 'night':
                behind *= 1.0 - 0.8 * dim
        exposure = 1.0 + 0.06 * math.sin(self._flicker + 5.0 * along) + rng.normal(0.0, 0.01)
        scenery = self._window(pixels, along) * np.float32(behind)
        sign = self._warped(pixels, size, along, rng)
        image = scenery * (1.0 - sign[..., 3:]) + sign[..., :3] * np.float32(light)
        image *= self._cast * np.float32(exposure)
        grey = image.mean(axis=2, keepdims=True)
        image = grey + (image - grey) * np.float32(self._colourful)
        image = image * np.float32(1.0 - self._veil) + np.float32(self._veil)
        image = self._lens(image, size, conditions)
        # A knee instead of a hard clip, as a camera's tone curve has.
        image = np.where(image > 0.8, 0.8 + 0.2 * np.tanh((image - 0.8) / 0.2), image)
        image += np.float32(self._grain) * rng.standard_normal(image.shape, dtype=np.float32)
        shot = (np.clip(image, 0.0, 1.0) * 255.0 + 0.5).astype(np.uint8)
        for name, severity in conditions:
            # Near signs are seen through less fog.
            amount = severity * (1.0 - 0.3 * along) if name == 'fog' else severity
            shot = weather.apply(name, shot, amount, rng, np.random.default_rng(list(field)))
        return shot

    def _window(self, pixels: int, along: float) -> Light:
        # The far scenery keeps its scale but for a slow zoom, and drifts past behind the sign.
        extent = self._background.shape[0]
        zoom = 1.0 + 0.25 * along
        centre = extent / 2.0 + self._drift * (along - 0.5)
        corner = centre - pixels / 2.0 / zoom
        inverse = np.array([[1 / zoom, 0.0, corner[0]], [0.0, 1 / zoom, corner[1]]])
        return np.asarray(
            cv2.warpAffine(
                self._background,
                inverse,
                (pixels, pixels),
                flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
                borderMode=cv2.BORDER_REFLECT_101,
            )
        )

    def _warped(self, pixels: int, size: float, along: float, rng: np.random.Generator) -> Light:
        """The sign's plane in the crop's pixels, (pixels, pixels, 4), colours times alpha."""
        jitter = rng.normal(0.0, 0.012, 2) * size
        diameter = size * self._share * (1.0 + rng.normal(0.0, 0.015))
        side = self._plane.shape[0]
        while side >= 2.0 * diameter * _PLANE and side >= 32:
            side //= 2
        plane = self._mips.get(side)
        if plane is None:
            plane = np.asarray(cv2.resize(self._plane, (side, side), interpolation=cv2.INTER_AREA))
            self._mips[side] = plane
        # Seen more from the side the nearer it is.
        turn = _rotation(self._yaw * (0.5 + along), self._pitch, self._roll)
        corners = np.array([[-1, -1, 0], [1, -1, 0], [1, 1, 0], [-1, 1, 0]]) * (_PLANE / 2.0)
        seen = corners @ turn.T
        flat = seen[:, :2] / (1.0 + seen[:, 2:] / 6.0) * diameter * (self._aspect, 1.0)
        target = flat + pixels / 2.0 + jitter - 0.5
        source = np.array([[0, 0], [side, 0], [side, side], [0, side]]) - 0.5
        matrix = cv2.getPerspectiveTransform(source.astype(np.float32), target.astype(np.float32))
        return np.asarray(
            cv2.warpPerspective(plane, matrix, (pixels, pixels), flags=cv2.INTER_LINEAR)
        )

    def _lens(self, image: Light, size: float, conditions: Sequence[tuple[str, float]]) -> Light:
        sigma = self._soft * (0.75 + 0.25 * size / 48.0)
        image = np.asarray(cv2.GaussianBlur(image, (0, 0), sigma))
        # The camera's sharpening, which draws light rims around dark shapes.
        image += np.float32(self._crisp) * (image - cv2.GaussianBlur(image, (0, 0), 1.0))
        dim = max((s for name, s in conditions if name in ('dusk', 'night')), default=0.0)
        length = self._shake * (1.0 + 1.2 * dim) * (0.4 + size / 40.0)
        if length < 0.6:
            return image
        reach = math.ceil(length / 2.0)
        axis = np.arange(-reach, reach + 1, dtype=np.float32)
        c, s = math.cos(math.radians(self._shake_angle)), math.sin(math.radians(self._shake_angle))
        along = np.abs(axis[None, :] * c + axis[:, None] * s)
        across = np.abs(axis[:, None] * c - axis[None, :] * s)
        kernel = np.clip(length / 2.0 + 0.5 - along, 0, 1) * np.clip(1.0 - across, 0, 1)
        return np.asarray(cv2.filter2D(image, -1, kernel / kernel.sum()))


def _rotation(yaw: float, pitch: float, roll: float) -> npt.NDArray[np.float64]:
    a, b, c = np.radians((yaw, pitch, roll))
    about_y = np.array([[np.cos(a), 0, np.sin(a)], [0, 1, 0], [-np.sin(a), 0, np.cos(a)]])
    about_x = np.array([[1, 0, 0], [0, np.cos(b), -np.sin(b)], [0, np.sin(b), np.cos(b)]])
    about_z = np.array([[np.cos(c), -np.sin(c), 0], [np.sin(c), np.cos(c), 0], [0, 0, 1]])
    return np.asarray(about_z @ about_x @ about_y)


def _clouds(rng: np.random.Generator, side: int, coarse: float, octaves: int = 4) -> Light:
    """Smooth noise around 0, deviation near 1, `coarse` cells across at first."""
    noise = np.zeros((side, side), np.float32)
    for octave in range(octaves):
        cells = max(2, round(coarse * 2**octave))
        if cells > side:
            break
        grid = rng.standard_normal((cells, cells), dtype=np.float32)
        noise += cv2.resize(grid, (side, side), interpolation=cv2.INTER_CUBIC) * np.float32(
            0.62**octave
        )
    return noise


def _colour(rng: np.random.Generator, palette: Sequence[tuple[float, float, float]]) -> Light:
    shade = np.array(palette[int(rng.integers(len(palette)))], np.float32)
    return np.asarray(
        shade * np.float32(rng.uniform(0.75, 1.25)) * (1 + rng.normal(0, 0.05, 3)).astype('f4')
    )


_SKIES = ((0.98, 0.98, 0.98), (0.62, 0.76, 0.95), (0.8, 0.84, 0.9), (0.45, 0.6, 0.85))
_LEAVES = ((0.15, 0.17, 0.1), (0.2, 0.17, 0.11), (0.1, 0.12, 0.085), (0.27, 0.21, 0.11))
_WALLS = ((0.62, 0.56, 0.48), (0.5, 0.28, 0.22), (0.72, 0.7, 0.66), (0.4, 0.38, 0.36))


def _background(rng: np.random.Generator, side: int) -> Light:
    """Scenery of a roadside in camera pixels, (side, side, 3) in [0, 1.2]: what is far away."""
    rows = np.linspace(0.0, 1.0, side, dtype=np.float32)[:, None, None]
    sky = _colour(rng, _SKIES)
    image = sky * (1.0 - 0.15 * rows) + 0.12 * rows * np.ones((side, side, 3), np.float32)
    image += 0.05 * _clouds(rng, side, 3, 3)[..., None]
    kind = rng.choice(4, p=(0.45, 0.25, 0.2, 0.1))
    if kind == 2 or (kind == 1 and rng.random() < 0.4):
        _houses(rng, image)
    if kind != 3:
        # kind 0 is the edge of a wood and fills the view; else tree tops against the sky.
        top = rng.uniform(-0.6, 0.1) if kind == 0 else rng.uniform(0.3, 0.8)
        edge = _clouds(rng, side, 4, 5)
        depth = rows[..., 0] - top + 0.07 * edge + 0.04 * _clouds(rng, side, side / 6, 2)
        mask = np.clip(depth * (side / 3.0), 0.0, 1.0)[..., None]
        lit = _clouds(rng, side, side / rng.uniform(4.0, 14.0), 4)
        leaf = _colour(rng, _LEAVES) * np.exp(0.65 * lit)[..., None]
        gaps = np.clip(2 * _clouds(rng, side, side / 4, 2) - rng.uniform(2.2, 5.5), 0, 1)[..., None]
        image = image * (1 - mask) + mask * (leaf * (1 - gaps) + sky * gaps)
    else:
        wall = _colour(rng, _WALLS) * (1 + 0.07 * _clouds(rng, side, side / 8, 3))[..., None]
        image = wall * (1.0 + 0.3 * (rows - 0.5) * rng.normal())
    for _ in range(int(rng.integers(0, 9)) if rng.random() < 0.6 else 0):
        _branch(rng, image)
    road = rng.uniform(0.68, 1.3)
    if road < 1.0:
        # The road and its verge come into view low in the picture.
        first = int(road * side)
        grey = rng.uniform(0.22, 0.42) * (1 + 0.05 * _clouds(rng, side, side / 4, 2))[first:]
        image[first:] = grey[..., None] * np.array([1.0, 1.0, 1.04], np.float32)
        if rng.random() < 0.6:
            cv2.line(image, (0, first + side // 14), (side, first + side // 9), (0.75,) * 3, 2)
    soft = cv2.GaussianBlur(image, (0, 0), rng.uniform(0.3, 0.9))
    return np.asarray(np.clip(soft, 0.0, 1.2).astype(np.float32))


def _houses(rng: np.random.Generator, image: Light) -> None:
    side = image.shape[0]
    for _ in range(int(rng.integers(1, 4))):
        left, width = rng.uniform(-0.2, 0.8) * side, rng.uniform(0.25, 0.7) * side
        top = rng.uniform(0.1, 0.6) * side
        wall, roof = _colour(rng, _WALLS), _colour(rng, ((0.32, 0.16, 0.12), (0.2, 0.2, 0.22)))
        x0, x1, y0 = int(left), int(left + width), int(top)
        cv2.rectangle(image, (x0, y0), (x1, side), wall.tolist(), -1)
        peak = np.array([[x0 - 4, y0], [x1 + 4, y0], [(x0 + x1) // 2, y0 - int(0.3 * width)]])
        cv2.fillPoly(image, [peak.astype(np.int32)], roof.tolist())
        pitch, pane = max(8, side // 9), max(3, side // 22)
        glass = (np.array([0.12, 0.14, 0.17]) * rng.uniform(0.7, 2.5)).tolist()
        for y in range(y0 + pane, side, pitch):
            for x in range(x0 + pane, x1 - pane, pitch):
                cv2.rectangle(image, (x, y), (x + pane, y + pane + 2), glass, -1)


def _branch(rng: np.random.Generator, image: Light) -> None:
    side = image.shape[0]
    points = [rng.uniform(0.0, side, 2)]
    heading = rng.uniform(0.0, 2.0 * math.pi)
    for _ in range(4):
        heading += rng.normal(0.0, 0.4)
        step = side * rng.uniform(0.08, 0.2)
        points.append(points[-1] + step * np.array([math.cos(heading), math.sin(heading)]))
    shade = (np.array([0.12, 0.1, 0.08]) * rng.uniform(0.6, 1.8)).tolist()
    line = np.round(np.array(points) * 16).astype(np.int32)
    cv2.polylines(image, [line], False, shade, int(rng.integers(1, 4)), cv2.LINE_AA, 4)


def _board(rng: np.random.Generator, class_id: int, diameter: float) -> Light:
    """A worn sign on its post, (S, S, 4) float32, colours already times alpha.

    S is _PLANE times the drawn sign, which is at least half as large as `diameter` pixels.
    """
    drawn = 32
    while drawn < diameter and drawn < 128:
        drawn *= 2
    side = round(drawn * _PLANE)
    plane = np.zeros((side, side, 4), np.float32)
    middle, edge = side // 2, (side - drawn) // 2
    post = max(1, round(drawn * rng.uniform(0.03, 0.055)))
    steel = rng.uniform(0.3, 0.6)
    if rng.random() < 0.85:
        plane[middle:, middle - post : middle + post] = (steel, steel, steel * 1.02, 1.0)
    if rng.random() < 0.22:
        # A supplementary plate below.
        width, top = round(drawn * rng.uniform(0.3, 0.46)), edge + drawn + round(0.03 * drawn)
        plane[top : top + drawn // 3, middle - width : middle + width] = (0.75, 0.75, 0.74, 1.0)
        plane[top + drawn // 9 : top + drawn // 6, middle - width // 2 : middle + width // 2] = (
            0.15, 0.15, 0.15, 1.0,
        )  # fmt: skip
    elif rng.random() < 0.2:
        # Another sign on the same post, cut by the crop.
        other = draw_sign(int(rng.integers(43)), drawn).astype(np.float32) / 255.0
        shift = drawn + round(0.04 * drawn)
        top = edge + (shift if rng.random() < 0.6 else -shift)
        first, last = max(0, top), min(side, top + drawn)
        part = other[first - top : last - top]
        area = plane[first:last, edge : edge + drawn]
        area[...] = part * part[..., 3:] + area * (1.0 - part[..., 3:])
    sign = draw_sign(class_id, drawn).astype(np.float32) / np.float32(255.0)
    colours = _worn(rng, sign[..., :3])
    alpha = sign[..., 3:]
    area = plane[edge : edge + drawn, edge : edge + drawn]
    area[..., :3] = colours * alpha + area[..., :3] * (1.0 - alpha)
    area[..., 3:] = alpha + area[..., 3:] * (1.0 - alpha)
    return plane


def _worn(rng: np.random.Generator, colours: Light) -> Light:
    """Years of sun, dirt and trees: fading, grime, stickers and shadows on (S, S, 3) colours."""
    side = colours.shape[0]
    fade = rng.beta(1.2, 4.0)
    hue = 1.0 + rng.normal(0.0, 0.05, 3).astype(np.float32)
    # Old red turns to orange and pink: it loses saturation and gains light.
    pale = colours.mean(axis=2, keepdims=True) * 0.6 + 0.28
    worn = (colours * np.float32(1.0 - 0.55 * fade) + pale * np.float32(0.55 * fade)) * hue
    dirt = rng.beta(1.0, 4.0)
    grime = np.clip(_clouds(rng, side, 4, 4) + rng.normal(-0.6, 0.5), 0.0, 2.0) * dirt
    worn = worn * (1.0 - 0.35 * np.minimum(grime, 1.4))[..., None]
    slope = rng.normal(0.0, 0.10, 2)
    axis = np.linspace(-1.0, 1.0, side, dtype=np.float32)
    worn = worn * (1.0 + slope[0] * axis[:, None] + slope[1] * axis[None, :])[..., None]
    if rng.random() < 0.12:
        # Branches throw a shadow over part of the board.
        shadow = np.clip(1.5 * _clouds(rng, side, 3, 3) + rng.normal(0.0, 0.6), 0.0, 1.0)
        worn = worn * (1.0 - rng.uniform(0.3, 0.6) * shadow)[..., None]
    if rng.random() < 0.06:
        x, y = (rng.uniform(0.25, 0.75, 2) * side).astype(int)
        radius = max(1, round(side * rng.uniform(0.03, 0.07)))
        worn = np.ascontiguousarray(worn, np.float32)
        cv2.circle(
            worn, (int(x), int(y)), radius, rng.uniform(0.1, 0.9, 3).tolist(), -1, cv2.LINE_AA
        )
    return np.asarray(worn, np.float32)
