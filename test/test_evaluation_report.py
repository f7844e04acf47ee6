# Copyright 2026 The sparse_split_ros authors
# SPDX-License-Identifier: Apache-2.0
"""The report holds everything in one file, says what went wrong, and survives odd runs."""

from __future__ import annotations

import io
import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from rich.console import Console

pytest.importorskip('matplotlib')
pytest.importorskip('jinja2')

from sparse_split_ros.data.files import natural
from sparse_split_ros.evaluation import charts, pictures
from sparse_split_ros.evaluation.metrics import Counts, Outcome, summarise
from sparse_split_ros.evaluation.provenance import machine, versions
from sparse_split_ros.evaluation.report import Report, _routes_text, write_report
from sparse_split_ros.evaluation.tables import summary_table
from sparse_split_ros.policy.decision import Reason, Route

OUTAGE = {
    'killed_s': 1.0, 'restarted_s': 1.5, 'announced_s': 1.9, 'recovered_s': 2.0,
    'noticed_ms': 123.4, 'longest_wait_ms': 100.5, 'first_answer_ms': 45.6, 'first_frame': 31,
    'last_frame': 58, 'waited': 2, 'fallbacks': 12, 'fallbacks_after_return': 0,
}  # fmt: skip


def run(count: int = 90, labelled: bool = True) -> list[Outcome]:
    """A run through two scenes, with every route, some mistakes and one frame unanswered."""
    frames = []
    for index in range(count):
        route = (Route.LOCAL, Route.OFFBOARD, Route.FALLBACK)[index % 3]
        label = ('stop', 'speed limit 100', 'speed limit 20')[index // 5 % 3]
        frames.append(
            Outcome(
                index, index / 30, index / 30, label if labelled else None,
                'day' if index < count // 2 else 'night',
                'yield' if index % 7 == 0 else label, route, Reason.CONFIDENT, index % 3, 1,
                0.5 + index % 50 / 100, 'day', 0 if route is Route.LOCAL else 120,
                1.0 + index % 4, 2.0 + index % 4,
            )
        )  # fmt: skip
    if count > 4:
        frames[4] = replace(frames[4], answer=None, route=None, latency=float('nan'))
    return frames


def report(frames: list[Outcome], **given: Any) -> Report:
    answered = sum(frame.route is not None for frame in frames)
    summary = {
        **summarise(frames, Counts(len(frames), answered, len(frames) - answered), 100.0),
        'policy': 'fixed', 'split': 1, 'threshold': 0.9, 'codec': 'int8', 'source': 'a test',
        'bundle': {'name': 'synthetic', 'fingerprint': '00' * 8}, 'rate': 1.0, 'seed': 0,
        'runtime': 'none', 'machine': machine(), 'versions': versions(), 'errors': [], **given,
    }  # fmt: skip
    rng = np.random.default_rng(0)
    images = {
        frame.index: rng.integers(0, 256, (16 + frame.index, 16 + frame.index, 3), np.uint8)
        for frame in frames
    }
    return Report('A test', frames, summary, images, 3072)


class _Links(HTMLParser):
    """Collects what a page would load, and whether its tags are closed."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.links: list[str] = []
        self.open: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.links += [value or '' for name, value in attributes if name in ('src', 'href')]
        if tag not in ('meta', 'img', 'br'):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


@pytest.fixture(scope='module')
def made() -> Report:
    return report(run(), tail_outage=OUTAGE, errors=['3 answers <are> missing'])


@pytest.fixture(scope='module')
def folder(made: Report, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the report of an ordinary run lies; drawing takes a second, so once for all."""
    return write_report(made, tmp_path_factory.mktemp('report')).parent


@pytest.fixture(scope='module')
def page(folder: Path) -> str:
    return (folder / 'index.html').read_text('utf-8')


def words(page: str) -> str:
    return ' '.join(re.sub('<[^>]*>', ' ', page).split())


def test_the_page_holds_its_pictures_and_loads_nothing(page: str) -> None:
    parsed = _Links(page)
    assert parsed.open == []
    assert len(parsed.links) > 6
    assert all(link.startswith('data:image/png;base64,') for link in parsed.links)
    assert 'url(' not in page and '@import' not in page and '<script' not in page


def test_the_same_pictures_lie_beside_it(folder: Path) -> None:
    names = {path.stem for path in folder.glob('*.png')}
    assert names == {'drive', 'exits', 'accuracy', 'latency', 'bytes', 'confusion'}
    for path in folder.glob('*.png'):
        image = cv2.imread(str(path))
        assert image.shape[1] > 500 and image.std() > 1, f'{path.name} is empty'


def test_summary_json_is_what_was_measured(folder: Path, made: Report) -> None:
    assert json.loads((folder / 'summary.json').read_text('utf-8')) == made.summary


def test_errors_are_said_first(page: str) -> None:
    assert '3 answers &lt;are&gt; missing' in page
    assert page.index('missing') < page.index('Who answered')


def test_the_outage_is_told_in_words(page: str) -> None:
    assert 'noticed 123 ms later: 2 frames waited' in words(page)
    assert 'Once it had announced itself, 0 frames of them still found nobody' in words(page)


def test_a_tail_that_was_killed_without_consequence_is_told_as_such(tmp_path: Path) -> None:
    silent = dict.fromkeys(OUTAGE) | {'killed_s': 1.0, 'waited': 0, 'fallbacks': 0}
    page = write_report(report(run(9), tail_outage=silent), tmp_path).read_text('utf-8')
    assert 'killed without warning.' in page and 'The head noticed' not in page
    shown = Console(file=io.StringIO(), width=200)
    shown.print(summary_table(report(run(9), tail_outage=silent).summary))
    assert 'killed, and no frame needed it' in shown.file.getvalue()  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    'frames',
    [
        pytest.param(run(1), id='a single frame'),
        pytest.param(run(labelled=False), id='without the truth'),
        pytest.param([Outcome(i, i / 30) for i in range(5)], id='nothing answered'),
        pytest.param([replace(frame, scene=None) for frame in run()], id='without scenes'),
        pytest.param([replace(frame, time=0.0) for frame in run()], id='all at once'),
        pytest.param([replace(frame, scene='<b>tunnel') for frame in run()], id='unknown scene'),
    ],
)
def test_odd_runs_have_reports_too(frames: list[Outcome], tmp_path: Path) -> None:
    page = write_report(report(frames), tmp_path).read_text('utf-8')
    assert _Links(page).open == []


def test_what_is_not_known_has_no_place_in_the_pictures(tmp_path: Path) -> None:
    def words(each: Report) -> str:
        write_report(each, tmp_path)
        return re.sub('<[^>]*>', ' ', (tmp_path / 'index.html').read_text())

    bare = report(run(labelled=False))
    assert 'right answers' not in words(bare) and 'was wrong' not in words(bare)
    assert 'camera saw' in words(bare) and 'camera saw' not in words(replace(bare, images={}))
    full = report(run())
    assert 'right answers' in words(full) and 'was wrong' in words(full)
    heights = [
        cv2.imdecode(np.frombuffer(png, np.uint8), cv2.IMREAD_COLOR).shape[0]
        for outcomes in (full.outcomes, bare.outcomes)
        for png in (pictures.exit_use(outcomes), pictures.drive_strip(outcomes, {}))
    ]
    assert heights[2] < heights[0]


def test_a_short_run_has_no_gaps_between_its_stretches() -> None:
    png = pictures.exit_use([replace(each, route=Route.LOCAL, exit=0) for each in run(20)])
    picture = cv2.imdecode(np.frombuffer(png, np.uint8), cv2.IMREAD_COLOR)
    green = (picture == (0x5A, 0xC8, 0x3C)).all(2)
    row = np.flatnonzero(green[green.sum(1).argmax()])
    assert (np.diff(row) > 1).sum() == 1  # before the legend


def test_numbers_in_class_names_sort_by_value() -> None:
    names = ['speed limit 100', 'stop', 'speed limit 20', 'end 5']
    assert sorted(names, key=natural) == [
        'end 5', 'speed limit 20', 'speed limit 100', 'stop',
    ]  # fmt: skip


@pytest.mark.filterwarnings('error::RuntimeWarning')
def test_any_name_can_be_drawn() -> None:
    frames = [replace(each, answer='price $5^$') for each in run()]
    for number, name in enumerate(('①', '5²', '$_$', 'a\\b{', '停止')):
        frames[number] = replace(frames[number], label=name)
    assert pictures.confusion_matrix(frames) is not None


@pytest.mark.parametrize(
    ('dropped', 'told'),
    [
        (5, {'5 were overtaken': True, 'nothing says why': False}),
        (2, {'2 were overtaken': True, '3 of 95 images are without': True}),
        (None, {'overtaken': False, '5 of 95 images are without': True}),
    ],
)
def test_why_images_have_no_decision_is_told_as_far_as_it_is_known(
    dropped: int | None, told: dict[str, bool]
) -> None:
    made = report(run())
    summary = {**made.summary, 'frames': 95, 'accepted': 90, 'dropped': dropped, 'rejected': 0}
    text = _routes_text(replace(made, summary=summary))
    assert {words: words in text for words in told} == told


def test_nothing_confused_draws_no_matrix() -> None:
    right = [replace(frame, answer=frame.label) for frame in run() if frame.route is not None]
    assert pictures.confusion_matrix(right) is None


def test_a_rival_without_a_mistake_stands_above_one_with_a_mistake() -> None:
    """However few of the frames it took up."""
    flawless = {'accuracy': 1.0, 'frames': 120, 'accepted': 20}
    assert charts._wrong(flawless) < charts._wrong({**flawless, 'accuracy': 119 / 120})


def test_no_more_is_kept_of_an_image_than_can_be_shown() -> None:
    assert pictures.reduced(np.zeros((1080, 1920, 3), np.uint8)).shape == (144, 256, 3)
    assert pictures.reduced(np.zeros((40, 250, 3), np.uint8)).shape == (40, 250, 3)


def test_thumbnails_stand_where_their_frames_are_in_time() -> None:
    early = [Outcome(index, index / 30) for index in range(60)]
    late = [Outcome(index, 100 + index / 30) for index in range(60, 120)]
    red = np.full((8, 8, 3), (255, 0, 0), np.uint8)
    strip = pictures.drive_strip([*early, *late], {each.index: red for each in early})
    drawn = cv2.imdecode(np.frombuffer(strip, np.uint8), cv2.IMREAD_COLOR)
    where = np.flatnonzero((drawn == (0, 0, 255)).all(2).any(0))
    assert where.size and where.max() < drawn.shape[1] / 2


@pytest.mark.parametrize('shape', [(7, 300, 3), (300, 7, 3), (16, 16), (1, 300, 3)])
def test_thumbnails_keep_the_shape(shape: tuple[int, ...]) -> None:
    data = np.frombuffer(pictures.thumbnail(np.zeros(shape, np.uint8), 64), np.uint8)
    height, width = cv2.imdecode(data, cv2.IMREAD_COLOR).shape[:2]
    assert max(height, width) == 64
    assert (height > width) == (shape[0] > shape[1])


@pytest.mark.parametrize(
    ('policy', 'early', 'words_of_it'),
    [
        ('joint', 0, 'Who answered 100.0 % were answered on the robot by an exit that always'),
        ('joint', 3, 'sure of 25.0 % of the frames and answered them by itself. 75.0 % were'),
        ('joint', 12, 'The robot was sure of every frame'),
        ('branchynet', 0, 'The robot was sure of every frame'),
    ],
)
def test_an_exit_that_always_answers_is_not_said_to_be_sure(
    tmp_path: Path, policy: str, early: int, words_of_it: str
) -> None:
    frames = [
        replace(
            frame, route=Route.LOCAL, answer='stop', latency=1.0,
            threshold=0.9 if frame.index < early else 0.0,
        )
        for frame in run(12)
    ]  # fmt: skip
    page = words(write_report(report(frames, policy=policy), tmp_path).read_text('utf-8'))
    assert words_of_it in page
    assert ('by an exit that always answers' in page) == ('were' in words_of_it)


def test_the_worst_frames_lead_back_to_their_files(tmp_path: Path) -> None:
    frames = [replace(frame, file=f'<a>/{frame.index}.png') for frame in run(12)]
    page = write_report(report(frames), tmp_path).read_text('utf-8')
    assert '&lt;a&gt;/0.png</span>' in page
    bare = write_report(report(run(12)), tmp_path).read_text('utf-8')
    assert '.png</span>' not in bare
