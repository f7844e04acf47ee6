# Copyright 2026 The sparse_split_ros authors
# SPDX-License-Identifier: Apache-2.0
"""The 43 German traffic signs of GTSRB, drawn as vectors.

The shapes follow the catalogue of traffic signs (VzKat 2017) and the older boards that the GTSRB
photographs show, closely enough that a network trained on the photographs knows them.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable, Sequence

import cv2
import numpy as np
import numpy.typing as npt

Points = Sequence[Sequence[float]] | npt.NDArray[np.float64]


class SignError(ValueError):
    """A sign was asked for that cannot be drawn."""


CLASSES: tuple[str, ...] = (
    'speed limit 20',
    'speed limit 30',
    'speed limit 50',
    'speed limit 60',
    'speed limit 70',
    'speed limit 80',
    'end of speed limit 80',
    'speed limit 100',
    'speed limit 120',
    'no passing',
    'no passing for trucks',
    'priority at next intersection',
    'priority road',
    'yield',
    'stop',
    'no vehicles',
    'no trucks',
    'no entry',
    'general caution',
    'dangerous curve left',
    'dangerous curve right',
    'double curve',
    'bumpy road',
    'slippery road',
    'road narrows right',
    'road work',
    'traffic signals',
    'pedestrians',
    'children crossing',
    'bicycles crossing',
    'beware of ice or snow',
    'wild animals crossing',
    'end of all limits',
    'turn right ahead',
    'turn left ahead',
    'ahead only',
    'go straight or right',
    'go straight or left',
    'keep right',
    'keep left',
    'roundabout',
    'end of no passing',
    'end of no passing for trucks',
)

# The drawings use a plane where the sign spans -100..100, y down, and a small language: an
# operation, a colour letter and numbers.
#   P c  x y ...               filled polygon            B c  x y ...         filled closed spline
#   L c w  x y ...             polyline of width w       S c w  x y ...       spline of width w
#   D c  x y r                 disc                      O c w  x y r         ring
#   V c w b  x y ...           arrow: polyline of width w that ends in barbs of length b
#   C c w b  x y r a0 a1       arrow on a circle, from angle a0 to a1 (degrees, clockwise on screen)
#   T c w  x y width height spacing text             text of stroke w, centred on x y
PALETTE: dict[str, tuple[int, int, int]] = {
    'r': (182, 36, 42),
    'b': (28, 84, 164),
    'y': (234, 174, 40),
    'e': (0, 128, 96),
    'w': (236, 237, 234),
    'k': (24, 24, 27),
    's': (66, 68, 70),
}

# Centre lines of the characters, after DIN 1451 medium, in a box of 60 x 100.
_GLYPHS: dict[str, str] = {
    '0': 'S 30 0 53 9 60 30 60 70 53 91 30 100 7 91 0 70 0 30 7 9 30 0',
    '1': 'L 8 24 34 2 34 100',
    '2': 'S 2 28 9 8 30 0 51 8 57 28 46 50; L 46 50 4 98; L 2 100 60 100',
    '3': 'S 3 22 12 5 30 0 50 7 56 25 48 41 30 47; S 30 47 52 53 60 72 51 93 30 100 9 94 0 76',
    '5': 'L 54 0 10 0 6 46; S 6 46 28 37 50 46 60 68 51 92 28 100 8 94 0 80',
    '6': 'S 42 0 18 32 4 56 0 72 8 92 30 100 52 92 60 71 50 50 30 43 12 50 2 66',
    '7': 'L 0 0 60 0 22 100',
    '8': 'S 30 0 50 7 56 24 50 40 30 47 10 40 4 24 10 7 30 0;'
    ' S 30 47 52 54 60 73 52 92 30 100 8 92 0 73 8 54 30 47',
    'S': 'S 56 18 46 4 28 0 10 6 4 25 14 42 32 49 52 58 58 76 48 94 28 100 10 95 0 80',
    'T': 'L 0 0 60 0; L 30 0 30 100',
    'O': 'S 30 0 53 9 60 30 60 70 53 91 30 100 7 91 0 70 0 30 7 9 30 0',
    'P': 'L 0 100 0 0 32 0; S 32 0 53 7 59 27 53 47 32 54; L 32 54 0 54',
}

# Advance of the characters that are narrower than the box.
_WIDTHS = {'1': 0.62}

_TRIANGLE = ((0.0, -87.0), (100.0, 87.0), (-100.0, 87.0))
_OCTAGON = tuple(
    (107.0 * math.cos(math.radians(a)), 107.0 * math.sin(math.radians(a)))
    for a in np.arange(22.5, 360.0, 45.0)
)
_DIAMOND = ((0.0, -100.0), (100.0, 0.0), (0.0, 100.0), (-100.0, 0.0))

_CURVE_LEFT = 'S k 17  17 58 17 30 11 16 -2 11 -14 10; P k -34 10 -12 -10 -12 30'
_BARS = (
    'L k 4 -70 48 48 -70; L k 4 -66 55 55 -66; L k 4 -61 61 61 -61; L k 4 -55 66 66 -55;'
    ' L k 4 -48 70 70 -48'
)
_CAR = (
    'P {c} {x0} -6 {x1} -22 {x2} -22 {x3} -6 {x3} 12 {x0} 12;'
    ' P w {w0} -7 {w1} -17 {w2} -17 {w3} -7;'
    ' P {c} {x0} 10 {t0} 10 {t0} 22 {x0} 22; P {c} {t1} 10 {x3} 10 {x3} 22 {t1} 22'
)
_STRAIGHT_OR_RIGHT = 'V w 16 34  -8 78 -24 -68; V w 16 32  -12 54 -8 28 4 14 74 10'
_TURN_RIGHT = 'V w 16 32  -26 66 -26 10 -24 -4 -16 -14 -4 -18 58 -18'
_KEEP_RIGHT = 'V w 18 44  -48 -48 50 50'


def _car(colour: str, left: float) -> str:
    at = {'x0': 0, 'x1': 7, 'x2': 45, 'x3': 52, 'w0': 8, 'w1': 12, 'w2': 40, 'w3': 44}
    at |= {'t0': 11, 't1': 41}
    return _CAR.format(c=colour, **{name: left + x for name, x in at.items()})


def _no_passing(first: str, second: str) -> str:
    return f'{_car(first, -58)}; {_car(second, 6)}'


def _no_passing_trucks(first: str, second: str) -> str:
    return (
        f'P {first} -58 -38 -6 -38 -6 16 -58 16; P {first} -58 16 -47 16 -47 26 -58 26;'
        f' P {first} -17 16 -6 16 -6 26 -17 26; {_car(second, 6)}'
    )


def _speed(digits: str) -> str:
    if len(digits) == 2:
        return f'T k 12 0 0 44 91 17 {digits}'
    return f'T k 10 0 0 28 85 11 {digits}'


def _drawings() -> tuple[tuple[str, str], ...]:
    """(board, pictogram) of every class, in the order of CLASSES."""
    return (
        ('ring', _speed('20')),
        ('ring', _speed('30')),
        ('ring', _speed('50')),
        ('ring', _speed('60')),
        ('ring', _speed('70')),
        ('ring', _speed('80')),
        ('end', f'T s 15 0 0 44 108 15 80; {_BARS}'),
        ('ring', _speed('100')),
        ('ring', _speed('120')),
        ('ring', _no_passing('r', 'k')),
        ('ring', _no_passing_trucks('r', 'k')),
        (
            'triangle',
            'P k 0 -26 18 4 10 4 10 64 -10 64 -10 4 -18 4; P k -29 20 29 20 29 32 -29 32',
        ),
        ('diamond', ''),
        ('yield', ''),
        ('octagon', 'T w 12 0 0 24 66 11 STOP'),
        ('ring', ''),
        (
            'ring',
            'P k -14 -26 58 -26 58 16 -14 16; P k -18 16 -18 -16 -36 -16 -52 0 -56 18;'
            ' P k -56 12 58 12 58 20 -56 20; D k -38 22 10; D k 36 22 10; D k 14 22 10;'
            ' P w -26 -10 -34 -10 -43 1 -26 1; O w 2.5 -38 22 10; O w 2.5 36 22 10',
        ),
        ('red disc', 'P w -72 -17 72 -17 72 17 -72 17'),
        ('triangle', 'B k -9 -20 0 -28 9 -20 6 8 4 34 0 37 -4 34 -6 8; D k 0 52 9'),
        ('triangle', _CURVE_LEFT),
        ('triangle', f'M; {_CURVE_LEFT}'),
        ('triangle', 'L k 16 17 56 17 15 -9 31 -9 -8; P k -9 -32 -17 -8 -1 -8'),
        (
            'triangle',
            'B k -48 60 -40 52 -33 38 -22 33 -11 40 0 50 11 40 22 33 33 38 40 52 48 60'
            ' 46 63 -46 63',
        ),
        (
            'triangle',
            'P k -26 -1 -14 -16 16 -8 20 10 29 13 26 30 -30 16 -28 2; P w -18 2 -11 -10 12 -4 14 9;'
            ' P k -29 14 -19 16 -21 27 -31 25; P k 16 26 26 28 24 38 14 36;'
            ' S k 6 -30 38 -40 46 -26 52 -38 62; S k 6 10 45 0 52 14 57 2 64',
        ),
        ('triangle', 'L k 12 -9 -14 -9 51; L k 11 10 -14 10 10 21 26 21 51'),
        (
            'triangle',
            'D k -18 -12 8; B k -28 0 -14 -5 0 8 2 26 -12 32 -22 20; L k 9 -14 26 -24 42 -34 60;'
            ' L k 9 -4 26 6 42 6 60; L k 6 -14 2 2 16 14 20; L k 5 -8 34 24 8;'
            ' B k 14 63 24 46 38 36 52 46 64 63',
        ),
        (
            'triangle',
            'D r 0 -12 13; O k 2 0 -12 13; D y 0 18 13; O k 2 0 18 13; D e 0 48 13; O k 2 0 48 13',
        ),
        (
            'triangle',
            'D k -2 -22 7; B k -9 -13 5 -13 8 4 7 24 -7 24 -9 4; L k 8 -3 22 -12 42 -30 60;'
            ' L k 8 4 20 17 38 31 58; L k 5 -7 -8 -18 4 -27 14; L k 5 5 -8 18 4 25 14',
        ),
        (
            'triangle',
            'D k 15 -17 6.5; B k 8 -8 21 -8 22 8 22 20 9 20 8 6; L k 6 12 20 8 34 -4 50;'
            ' L k 6 19 20 31 34 44 46; L k 5 9 -6 -2 4 -10 10; L k 5 20 -6 34 2 40 -6;'
            ' D k -24 6 5.5; P k -28 12 -20 12 -15 34 -33 34; L k 5 -27 34 -30 44 -42 54;'
            ' L k 5 -20 34 -16 44 -16 58; L k 4 -28 15 -42 18; L k 4 -20 15 -10 14',
        ),
        (
            'triangle',
            'O s 3 -31 43 19; O s 3 32 43 19; L s 3 -31 43 -14 15 18 15 0 43 -14 15;'
            ' L s 3 0 43 -31 43; L s 3 32 43 17 4 27 0; L s 3 -22 9 -8 9',
        ),
        (
            'triangle',
            '; '.join(
                f'R {angle}; L k 5.5 0 26 0 -6; L k 4.5 -9 -5 0 5 9 -5'
                for angle in range(0, 360, 60)
            ),
        ),
        (
            'triangle',
            'B k -20 -6 -13 -13 -6 -12 -3 0 7 12 22 17 34 25 37 33 26 32 12 30 0 24 -8 12 -10 1;'
            ' L k 4.5 -2 20 -19 25 -28 33; L k 4.5 3 25 -11 36 -20 41; L k 5 33 30 44 37 53 49;'
            ' L k 5 28 31 38 43 44 54; L k 3.5 -8 -11 -2 -25 4 -28; L k 3.5 -11 -11 -11 -24',
        ),
        ('end', _BARS),
        ('blue', _TURN_RIGHT),
        ('blue', f'M; {_TURN_RIGHT}'),
        ('blue', 'V w 17 42  0 68 0 -66'),
        ('blue', _STRAIGHT_OR_RIGHT),
        ('blue', f'M; {_STRAIGHT_OR_RIGHT}'),
        ('blue', _KEEP_RIGHT),
        ('blue', f'M; {_KEEP_RIGHT}'),
        (
            'blue',
            'C w 13 25 0 0 52 30 -60; C w 13 25 0 0 52 150 60; C w 13 25 0 0 52 270 180',
        ),
        ('end', f'{_no_passing("s", "s")}; {_BARS}'),
        ('end', f'{_no_passing_trucks("s", "s")}; {_BARS}'),
    )


class _Canvas:
    """A supersampled RGBA canvas of the sign's plane."""

    def __init__(self, side: int, rim: str) -> None:
        # The transparent surround has the rim's colour, so that averaging does not darken the edge.
        self.pixels = np.empty((side, side, 4), np.uint8)
        self.pixels[:] = (*PALETTE[rim], 0)
        self._side = side
        self._matrix = np.eye(2)
        self._origin = np.zeros(2)

    def mirror(self) -> None:
        self._matrix = np.diag([-1.0, 1.0])

    def rotate(self, degrees: float, centre: tuple[float, float]) -> None:
        c, s = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
        self._matrix = np.array([[c, -s], [s, c]])
        self._origin = np.asarray(centre) - self._matrix @ np.asarray(centre)

    def polygon(self, colour: str, points: Points) -> None:
        plane = np.asarray(points, np.float64) @ self._matrix.T + self._origin
        # 4 fractional bits; OpenCV counts from pixel centres.
        pixels = (plane / 202.0 + 0.5) * self._side - 0.5
        fixed = np.round(pixels * 16.0).astype(np.int32)
        cv2.fillPoly(self.pixels, [fixed], (*PALETTE[colour], 255), shift=4)

    def disc(self, colour: str, x: float, y: float, radius: float) -> None:
        self.polygon(colour, _arc(x, y, radius, 0.0, 360.0))

    def stroke(self, colour: str, width: float, points: Points, cap: bool = True) -> None:
        line = np.asarray(points, np.float64)
        for a, b in itertools.pairwise(line):
            along = b - a
            length = float(np.hypot(*along))
            if length == 0.0:
                continue
            across = np.array([-along[1], along[0]]) * (width / 2.0 / length)
            self.polygon(colour, [a + across, b + across, b - across, a - across])
        for x, y in line if cap else line[1:-1]:
            self.disc(colour, x, y, width / 2.0)

    def arrow(self, colour: str, width: float, barb: float, points: Points) -> None:
        line = np.asarray(points, np.float64)
        along = line[-1] - line[-2]
        along /= np.hypot(*along)
        across = np.array([-along[1], along[0]])
        tip = line[-1]
        self.stroke(colour, width, [*line[:-1], tip - along * width * 0.6], cap=False)
        # Barbs at 45 degrees, cut parallel to the shaft as on the road.
        reach, thick = barb, width * 1.25
        for side in (1.0, -1.0):
            out = tip + (-along + side * across) * reach
            self.polygon(colour, [tip, out, out - along * thick, tip - along * thick * 1.15])

    def ring_arrow(
        self,
        colour: str,
        width: float,
        barb: float,
        x: float,
        y: float,
        radius: float,
        start: float,
        end: float,
    ) -> None:
        arc = _arc(x, y, radius, start, end)
        self.stroke(colour, width, arc[:-8], cap=False)
        along = arc[-1] - arc[-6]
        along /= np.hypot(*along)
        across = np.array([-along[1], along[0]])
        tip, base = arc[-1] + along * barb * 0.2, arc[-1] - along * barb * 0.75
        self.polygon(colour, [tip, base + across * barb * 0.72, base - across * barb * 0.72])

    def text(
        self,
        colour: str,
        width: float,
        x: float,
        y: float,
        wide: float,
        high: float,
        space: float,
        characters: str,
    ) -> None:
        # `wide` and `high` measure centre lines; the stroke adds its width around them.
        widths = [wide * _WIDTHS.get(character, 1.0) for character in characters]
        gap = space + width / 2.0
        left = x - (sum(widths) + gap * (len(characters) - 1)) / 2.0
        for character, advance in zip(characters, widths):
            scale = np.array([wide / 60.0, (high - width) / 100.0])
            corner = np.array([left, y - (high - width) / 2.0])
            for kind, numbers in _parse(_GLYPHS[character]):
                line = np.array(numbers, np.float64).reshape(-1, 2) * scale + corner
                self.stroke(colour, width, _spline(line) if kind == 'S' else line)
            left += advance + gap

    def discs(self, *rings: tuple[str, float]) -> None:
        for colour, radius in rings:
            self.disc(colour, 0.0, 0.0, radius)

    def nested(
        self,
        points: Points,
        centre: tuple[float, float],
        inradius: float,
        *layers: tuple[str, float, float],
    ) -> None:
        """Rounded copies of a tangential polygon, each (colour, inset, corner radius)."""
        for colour, inset, corner in layers:
            scale = (inradius - inset - corner) / inradius
            inner = (np.asarray(points, np.float64) - centre) * scale + centre
            self.polygon(colour, inner)
            self.stroke(colour, 2.0 * corner, [*inner, inner[0]])

    def apply(self, operation: str, words: list[str]) -> None:
        """Carry out one command of the drawing language."""
        if operation == 'M':
            self.mirror()
            return
        if operation == 'R':
            self.rotate(float(words[0]), (0.0, 26.0))
            return
        colour = words[0]
        if operation == 'T':
            width, x, y, wide, high, space = (float(word) for word in words[1:7])
            self.text(colour, width, x, y, wide, high, space, words[7])
            return
        numbers = [float(word) for word in words[1:]]
        if operation == 'D':
            self.disc(colour, *numbers)
        elif operation == 'O':
            width, x, y, radius = numbers
            self.stroke(colour, width, _arc(x, y, radius, 0.0, 360.0))
        elif operation == 'C':
            self.ring_arrow(colour, *numbers)
        else:
            skip = {'P': 0, 'B': 0, 'L': 1, 'S': 1, 'V': 2}[operation]
            points = np.array(numbers[skip:]).reshape(-1, 2)
            if operation == 'P':
                self.polygon(colour, points)
            elif operation == 'B':
                self.polygon(colour, _spline(points, closed=True))
            elif operation == 'V':
                self.arrow(colour, numbers[0], numbers[1], points)
            else:
                self.stroke(colour, numbers[0], _spline(points) if operation == 'S' else points)


_BOARDS: dict[str, tuple[str, Callable[[_Canvas], None]]] = {
    'ring': ('w', lambda canvas: canvas.discs(('w', 100), ('r', 97), ('w', 74))),
    'red disc': ('w', lambda canvas: canvas.discs(('w', 100), ('r', 95))),
    'blue': ('w', lambda canvas: canvas.discs(('w', 100), ('b', 95))),
    'end': ('w', lambda canvas: canvas.discs(('w', 100), ('s', 97), ('w', 92))),
    'triangle': (
        'w',
        lambda canvas: canvas.nested(
            _TRIANGLE, (0.0, 29.0), 58.0, ('w', 0, 9), ('r', 3, 7), ('w', 19, 3)
        ),
    ),
    'yield': (
        'w',
        lambda canvas: canvas.nested(
            [(x, -y) for x, y in _TRIANGLE],
            (0.0, -29.0),
            58.0,
            ('w', 0, 9),
            ('r', 3, 7),
            ('w', 20, 3),
        ),
    ),
    'octagon': (
        'w',
        lambda canvas: canvas.nested(_OCTAGON, (0.0, 0.0), 98.9, ('w', 0, 4), ('r', 6, 3)),
    ),
    'diamond': (
        'w',
        lambda canvas: canvas.nested(
            _DIAMOND,
            (0.0, 0.0),
            70.7,
            ('w', 0, 8),
            ('k', 2.5, 7),
            ('w', 4.5, 6),
            ('k', 26, 4),
            ('y', 27.5, 3),
        ),
    ),
}


@functools.lru_cache(maxsize=256)
def draw_sign(class_id: int, size: int = 128, supersample: int = 4) -> npt.NDArray[np.uint8]:
    """Draw one sign filling a square.

    Returns (size, size, 4) RGBA uint8, straight alpha, read-only because it is cached; raises
    SignError for an unknown class or a size outside 8..1024.
    """
    if not 0 <= class_id < len(CLASSES):
        raise SignError(f'class {class_id} is outside 0..{len(CLASSES) - 1}')
    if not 8 <= size <= 1024 or not 1 <= supersample <= 8:
        raise SignError(
            f'cannot draw {size} pixels at {supersample} samples: expected 8..1024 at 1..8'
        )
    board, pictogram = _DRAWINGS[class_id]
    rim, paint = _BOARDS[board]
    canvas = _Canvas(size * supersample, rim)
    paint(canvas)
    for operation, words in _parse(pictogram):
        canvas.apply(operation, words)
    reduced = cv2.resize(canvas.pixels, (size, size), interpolation=cv2.INTER_AREA)
    drawn = np.asarray(reduced, np.uint8)
    drawn.flags.writeable = False
    return drawn


def _parse(text: str) -> list[tuple[str, list[str]]]:
    commands = (command.split() for command in text.split(';'))
    return [(words[0], words[1:]) for words in commands if words]


def _arc(
    x: float, y: float, radius: float, start: float, end: float, steps: int = 48
) -> npt.NDArray[np.float64]:
    angles = np.radians(np.linspace(start, end, steps + 1))
    return np.stack([x + radius * np.cos(angles), y + radius * np.sin(angles)], axis=1)


def _spline(points: npt.NDArray[np.float64], closed: bool = False) -> npt.NDArray[np.float64]:
    """Catmull-Rom spline through (N, 2) points; a repeated end point closes it smoothly too."""
    loop = closed or bool(np.all(points[0] == points[-1]))
    if closed:
        points = np.concatenate([points, points[:1]])
    before, after = (points[-2], points[1]) if loop else (points[0], points[-1])
    p = np.concatenate([before[None], points, after[None]])
    t = np.linspace(0.0, 1.0, 9)[:-1, None, None]
    a, b, c, d = p[:-3], p[1:-2], p[2:-1], p[3:]
    curve = 0.5 * (
        2 * b + (c - a) * t + (2 * a - 5 * b + 4 * c - d) * t**2 + (3 * b - a - 3 * c + d) * t**3
    )
    return np.concatenate([curve.transpose(1, 0, 2).reshape(-1, 2), points[-1:]])


_DRAWINGS = _drawings()
