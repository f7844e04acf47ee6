# Copyright 2026 The sparse_split_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Whatever a user hands over has results, or one clear error."""

from __future__ import annotations

import csv
import json
import os
import shutil
import sqlite3
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from bundles import make_bundle
from replays import make_world, replayed, request, write_times

from sparse_split_ros.data.bags import IMAGE, Frame, Recording, is_bag, write_bag
from sparse_split_ros.data.weather import WeatherError
from sparse_split_ros.evaluation.evaluate import Result, evaluate
from sparse_split_ros.evaluation.jobs import EvaluateError
from sparse_split_ros.evaluation.stream import LabelError, Source, Truth, Weather, streams_in
from sparse_split_ros.nodes.messages import image_message, recorded_header
from sparse_split_ros.ros import serialize_message
from sparse_split_ros.runtime.bundle import BETWEEN_TASKS, Bundle

World = tuple[Bundle, Path, Path]
FRAMES = 40


@pytest.fixture(scope='module')
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return make_world(tmp_path_factory.mktemp('world'), FRAMES)


@pytest.fixture(scope='module')
def frames(world: World) -> list[Frame]:
    with np.load(world[1]) as data:
        pairs = zip(data['images'], data['labels'])
        return [
            Frame(10**9 + i * 33_000_000, 'camera', image, f'class {label}')
            for i, (image, label) in enumerate(pairs)
        ]


def run(world: World, *paths: Path, **given: object) -> Result:
    sources = tuple(replace(Source(str(path)), **given) for path in paths)
    return replayed(world, sources=sources)


def labels_and_answers(result: Result) -> list[tuple[str | None, str | None]]:
    return [(each.label, each.answer) for each in result.outcomes['fixed']]


@pytest.mark.parametrize('storage', ['mcap', 'sqlite3'])
@pytest.mark.parametrize('compression', ['none', 'file', 'message'])
def test_bags_of_every_kind_say_what_their_images_say(
    world: World, frames: list[Frame], tmp_path: Path, storage: str, compression: str
) -> None:
    write_bag(tmp_path / 'bag', frames, storage, compression=compression)
    from_bag = run(world, tmp_path / 'bag')
    assert labels_and_answers(from_bag) == labels_and_answers(run(world, world[1]))
    assert from_bag.problems == []


def test_folders_name_the_classes(world: World, tmp_path: Path, frames: list[Frame]) -> None:
    for index, frame in enumerate(frames[:6]):
        folder = tmp_path / 'photos' / str(frame.label)
        folder.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(folder / f'{index}.png'), frame.image[..., ::-1])
    result = run(world, tmp_path / 'photos')
    known = {(frame.label, a) for frame, (_, a) in
             zip(frames, labels_and_answers(run(world, world[1])))}  # fmt: skip
    assert set(labels_and_answers(result)) <= known
    assert result.summary['labelled'] == 6


def test_the_hash_of_a_source_is_of_what_is_read(tmp_path: Path, frames: list[Frame]) -> None:
    (tmp_path / 'elsewhere').mkdir()
    (tmp_path / 'photos').mkdir()
    (tmp_path / 'photos' / 'stop').symlink_to(tmp_path / 'elsewhere')
    source = Source(str(tmp_path / 'photos'))
    seen = []
    for name in ('1.png', '.hidden.png', '2.png'):
        cv2.imwrite(str(tmp_path / 'elsewhere' / name), frames[0].image)
        seen.append(source.fingerprint())
    assert seen[0] == seen[1] != seen[2]


@pytest.mark.parametrize('kind', ['folders', 'table'])
def test_one_picture_that_is_damaged_costs_none_of_the_others(
    world: World, tmp_path: Path, frames: list[Frame], kind: str
) -> None:
    photos = tmp_path / 'class 0'
    photos.mkdir()
    for index, frame in enumerate(frames[:6]):
        cv2.imwrite(str(photos / f'{index}.png'), frame.image[..., ::-1])
    if kind == 'table':
        lines = ['file,kind', *(f'class 0/{index}.png,class 0' for index in range(6))]
        (tmp_path / 'labels.csv').write_text('\n'.join(lines))
    whole = run(world, tmp_path, weather=Weather.parse('fog')).outcomes
    (photos / '2.png').write_bytes(b'no picture')
    policies = ('fixed', 'oracle', 'jpeg-offload')
    source = Source(str(tmp_path), weather=Weather.parse('fog'))
    result = replayed(world, *policies, sources=(source,))
    for summary in (result.summary, *result.summary['baselines'].values()):
        assert {name: summary[name] for name in ('frames', 'received', 'rejected', 'accepted')} == {
            'frames': 6, 'received': 6, 'rejected': 1, 'accepted': 5,
        }  # fmt: skip
    assert [e.answer for e in result.outcomes['fixed'] if e.index != 2] == [
        e.answer for e in whole['fixed'] if e.index != 2
    ]
    assert result.outcomes['fixed'][2].route is None
    (problem,) = result.summary['errors']
    assert '1 of 6 images are rejected, first image' in problem and '2.png' in problem
    assert [each.file for each in result.outcomes['fixed']] == [
        f'class 0/{index}.png' for index in range(6)
    ]


def test_a_name_that_is_not_utf_8_costs_no_run(
    world: World, tmp_path: Path, frames: list[Frame]
) -> None:
    (tmp_path / 'photos').mkdir()
    cv2.imwrite(str(tmp_path / '0.png'), frames[0].image)
    (tmp_path / '0.png').rename(tmp_path / 'photos' / os.fsdecode(b'lat\xfc.png'))
    asked = request(world, sources=(Source(str(tmp_path / 'photos')),))
    result = evaluate(asked, tmp_path / 'out')
    assert result.summary['answered'] == 1 and result.problems == []
    with (tmp_path / 'out' / 'decisions.csv').open(encoding='utf-8') as table:
        assert [row['file'] for row in csv.DictReader(table)] == [r'lat\udcfc.png']


def test_sources_of_one_name_are_told_apart(
    world: World, frames: list[Frame], tmp_path: Path
) -> None:
    bags = [tmp_path / day / 'flown' for day in ('monday', 'tuesday')]
    for bag in bags:
        write_bag(bag, frames[:2])
    asked = request(world, sources=tuple(Source(str(bag)) for bag in bags))
    summary = evaluate(asked, tmp_path / 'out').summary
    assert [each['name'] for each in summary['sources']] == [str(bag) for bag in bags]
    rows = (tmp_path / 'out' / 'decisions.csv').read_text().splitlines()[1:]
    assert [row.split(',')[1] for row in rows] == [str(bag) for bag in bags for _ in range(2)]


def test_a_report_is_not_put_among_the_images_it_is_about(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, frames: list[Frame]
) -> None:
    cv2.imwrite(str(tmp_path / '0.png'), frames[0].image)
    monkeypatch.chdir(tmp_path)
    asked = request(world, sources=(Source('.'),))
    with pytest.raises(EvaluateError, match='evaluation lies in the source'):
        evaluate(asked, Path('evaluation'))
    result = evaluate(asked, tmp_path.parent / f'{tmp_path.name} out')
    assert result.summary['sources'][0]['name'] == tmp_path.name


def test_a_folder_of_bags_is_all_of_them(world: World, frames: list[Frame], tmp_path: Path) -> None:
    for name in ('b', 'a'):
        write_bag(tmp_path / name, frames[:10])
    bags = streams_in(str(tmp_path))
    assert [Path(bag).name for bag in bags] == ['a', 'b']
    assert run(world, *map(Path, bags)).summary['frames'] == 20


def test_a_bag_that_was_cut_off_is_missed_among_others(
    world: World, frames: list[Frame], tmp_path: Path
) -> None:
    for name in ('whole', 'cut'):
        write_bag(tmp_path / name, frames[:10])
    (tmp_path / 'cut' / 'metadata.yaml').unlink()
    result = run(world, *map(Path, streams_in(str(tmp_path))))
    assert result.summary['frames'] == 10
    assert len(result.problems) == 1 and 'cut.mcap -o saved.mcap` saves' in result.problems[0]


def test_storage_files_in_a_folder_are_bags_of_their_own(
    world: World, frames: list[Frame], tmp_path: Path
) -> None:
    write_bag(tmp_path / 'bag', frames[:10])
    (tmp_path / 'bag' / 'metadata.yaml').unlink()
    assert streams_in(str(tmp_path / 'bag')) == [str(tmp_path / 'bag' / 'bag.mcap')]


def test_a_bag_may_be_called_as_its_storage_file(frames: list[Frame], tmp_path: Path) -> None:
    write_bag(tmp_path / 'drive.mcap', frames[:1])
    assert streams_in(str(tmp_path)) == [str(tmp_path / 'drive.mcap')]
    assert is_bag(tmp_path / 'drive.mcap') and not is_bag(tmp_path)


def test_a_truncated_bag_has_results_until_there_and_says_so(
    world: World, frames: list[Frame], tmp_path: Path
) -> None:
    write_bag(tmp_path / 'bag', frames, 'sqlite3')
    # Half of the messages are gone, the index still promises all.
    file = next((tmp_path / 'bag').glob('*.db3'))
    with sqlite3.connect(file) as base:
        base.execute(
            'DELETE FROM messages WHERE timestamp > ?', (10**9 + (FRAMES // 2) * 33_000_000,)
        )
    result = run(world, tmp_path / 'bag')
    assert result.summary['frames'] == FRAMES // 2 + 1
    assert len(result.problems) == 1 and 'truncated' in result.problems[0]
    assert result.summary['errors'] == result.problems


def test_a_bad_image_in_a_bag_is_rejected_alone(
    world: World, frames: list[Frame], tmp_path: Path
) -> None:
    with Recording(tmp_path / 'bag') as bag:
        for index, frame in enumerate(frames):
            message = image_message(frame.image, recorded_header(frame.stamp_ns, 'camera'))
            message.encoding = 'thermal12' if index in (3, 8) else message.encoding
            bag.write('/image', IMAGE, frame.stamp_ns, serialize_message(message))
    result = run(world, tmp_path / 'bag')
    assert result.summary['frames'] == FRAMES
    (problem,) = result.problems
    assert '2 of 40 images are rejected, first ' in problem and 'thermal12' in problem
    rejected = [each.index for each in result.outcomes['fixed'] if each.answer is None]
    assert rejected == [3, 8]


def test_one_bad_bag_does_not_cost_the_others(
    world: World, frames: list[Frame], tmp_path: Path
) -> None:
    write_bag(tmp_path / 'good', frames)
    (tmp_path / 'bad').mkdir()
    result = run(world, tmp_path / 'bad', tmp_path / 'good')
    assert result.summary['answered'] == FRAMES
    assert len(result.problems) == 1 and 'bad' in result.problems[0]


def test_a_storage_file_cut_in_the_middle_is_one_error_or_a_shorter_run(
    world: World, frames: list[Frame], tmp_path: Path
) -> None:
    write_bag(tmp_path / 'bag', frames)
    file = next((tmp_path / 'bag').glob('*.mcap'))
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    with pytest.raises(EvaluateError, match='bag'):
        run(world, tmp_path / 'bag')


def test_an_unknown_encoding_is_named(world: World, frames: list[Frame], tmp_path: Path) -> None:
    write_bag(tmp_path / 'bag', frames[:3], 'sqlite3')
    with sqlite3.connect(next((tmp_path / 'bag').glob('*.db3'))) as base:
        rows = base.execute('SELECT id, data FROM messages').fetchall()
        for number, data in rows:
            base.execute(
                'UPDATE messages SET data = ? WHERE id = ?',
                (bytes(data).replace(b'rgb8', b'xyz9'), number),
            )
    with pytest.raises(EvaluateError, match='xyz9'):
        run(world, tmp_path / 'bag')


def test_a_topic_that_is_not_there_is_named_beside_those_that_are(
    world: World, frames: list[Frame], tmp_path: Path
) -> None:
    write_bag(tmp_path / 'bag', frames[:3])
    with pytest.raises(EvaluateError, match="no image topic '/thermal'; its topics are"):
        run(world, tmp_path / 'bag', topic='/thermal')


@pytest.mark.parametrize('kind', ['missing', 'empty folder', 'text', 'empty bag'])
def test_what_holds_no_images_is_one_error(world: World, tmp_path: Path, kind: str) -> None:
    path = tmp_path / 'source'
    if kind == 'empty folder':
        path.mkdir()
    elif kind == 'text':
        path = tmp_path / 'source.txt'
        path.write_text('no images')
    elif kind == 'empty bag':
        write_bag(path, [Frame(1, 'camera', np.zeros((8, 8, 3), np.uint8))])
        shutil.rmtree(path)
        path.mkdir()
        (path / 'metadata.yaml').write_text('')
    with pytest.raises((EvaluateError, ValueError), match='source'):
        run(world, path)


def test_stamps_that_stand_still_are_no_reason_to_stop(
    world: World, frames: list[Frame], tmp_path: Path
) -> None:
    write_bag(tmp_path / 'bag', [replace(frame, stamp_ns=0, label=None) for frame in frames])
    result = run(world, tmp_path / 'bag')
    times = [each.time for each in result.outcomes['fixed']]
    assert times == pytest.approx([i / 30 for i in range(FRAMES)])
    (problem,) = result.summary['errors']
    assert f'bag: {FRAMES - 1} of {FRAMES} stamps stand still' in problem
    assert '30 Hz: say by --rate' in problem


def test_who_says_a_rate_is_told_of_no_stamps(
    world: World, frames: list[Frame], tmp_path: Path
) -> None:
    write_bag(tmp_path / 'bag', [replace(frame, stamp_ns=0, label=None) for frame in frames])
    result = run(world, tmp_path / 'bag', rate=10.0)
    times = [each.time for each in result.outcomes['fixed']]
    assert times == pytest.approx([i / 10 for i in range(FRAMES)])
    assert result.summary['errors'] == []


def test_one_late_stamp_of_many_is_nobodys_trouble(
    world: World, frames: list[Frame], tmp_path: Path
) -> None:
    many = [
        replace(frames[0], stamp_ns=round((n if n != 50 else 48.5) * 1e8), label=None)
        for n in range(120)
    ]
    write_bag(tmp_path / 'bag', many)
    assert run(world, tmp_path / 'bag').summary['errors'] == []


def test_a_clock_set_back_in_the_middle_costs_one_step_and_is_said(
    world: World, frames: list[Frame], tmp_path: Path
) -> None:
    half, period = FRAMES // 2, 0.2
    stamps = [1000 + i * period - (60 if i >= half else 0) for i in range(FRAMES)]
    with Recording(tmp_path / 'bag') as bag:
        for i, (stamp, frame) in enumerate(zip(stamps, frames)):
            message = image_message(frame.image, recorded_header(round(stamp * 1e9), 'camera'))
            # Received in this order, whatever the stamps say.
            bag.write('/image', IMAGE, i + 1, bytes(serialize_message(message)))
    result = run(world, tmp_path / 'bag')
    steps = np.diff([each.time for each in result.outcomes['fixed']])
    assert np.delete(steps, half - 1) == pytest.approx(period)
    assert len(result.problems) == 1 and f'bag: 1 of {FRAMES} stamps' in result.problems[0]


def test_weather_changes_images_and_names_the_scene(world: World) -> None:
    clear = run(world, world[1])
    foggy = run(world, world[1], weather=Weather.parse('fog:5'))
    assert {each.scene for each in foggy.outcomes['fixed']} == {'fog'}
    assert foggy.summary['sources'][0]['weather'] == 'fog:5'
    assert [each.confidence for each in foggy.outcomes['fixed']] != [
        each.confidence for each in clear.outcomes['fixed']
    ]


def test_weather_put_on_leaves_the_truth_of_the_other_tasks(tmp_path: Path) -> None:
    tasks = {'sign': ('stop', 'yield'), 'state': ('full', 'empty'), 'weather': ('day', 'fog')}
    bundle = make_bundle(tmp_path / 'bundle', classes=tasks)
    truths = {'state': 'empty', 'weather': 'day'}
    images = np.random.default_rng(0).integers(0, 256, (3, 16, 16, 3), dtype=np.uint8)
    write_bag(
        tmp_path / 'bag',
        [Frame(1 + i, 'camera', image, 'stop', others=truths) for i, image in enumerate(images)],
    )
    world = (bundle, tmp_path / 'bag', write_times(tmp_path / 'times.json', bundle))
    foggy = run(world, tmp_path / 'bag', weather=Weather.parse('fog'))
    labels = {label for label, _ in labels_and_answers(foggy)}
    assert labels == {BETWEEN_TASKS.join(('stop', 'empty', 'fog'))}


@pytest.mark.parametrize('text', ['storm', 'fog:0', 'fog:6', 'fog:x', ''])
def test_weather_that_does_not_exist_is_refused(text: str) -> None:
    with pytest.raises(WeatherError):
        Weather.parse(text)


def test_labels_can_be_given_by_frame_stamp_or_name(
    world: World, frames: list[Frame], tmp_path: Path
) -> None:
    write_bag(tmp_path / 'bag', [replace(frame, label='stop!') for frame in frames])
    (tmp_path / 'frames.csv').write_text('frame,label\n0,class 3\n1,2\n')
    (tmp_path / 'stamps.csv').write_text(f'stamp_ns,label\n{frames[4].stamp_ns},class 1\n')
    (tmp_path / 'names.json').write_text(json.dumps({'stop!': 'class 0'}))
    found = {}
    for name in ('frames.csv', 'stamps.csv', 'names.json'):
        result = run(world, tmp_path / 'bag', truth=Truth.load(tmp_path / name))
        found[name] = [each.label for each in result.outcomes['fixed']]
    assert found['frames.csv'][:3] == ['class 3', 'class 2', None]
    assert found['stamps.csv'][3:6] == [None, 'class 1', None]
    assert set(found['names.json']) == {'class 0'}


def test_names_of_classes_are_what_is_written(tmp_path: Path) -> None:
    """To YAML 00014 is twelve and no is false, to a folder they are names."""
    (tmp_path / 'names.yaml').write_text('00014: stop\nno: no entry\nyield: 013\n')
    names = {'00014': 'stop', 'no': 'no entry', 'yield': '013'}
    assert Truth.load(tmp_path / 'names.yaml').names == names


def test_labels_of_a_spreadsheet_are_read(tmp_path: Path) -> None:
    (tmp_path / 'labels.csv').write_text('frame,label\n3,stop\n', encoding='utf-8-sig')
    assert Truth.load(tmp_path / 'labels.csv').by_frame == {3: 'stop'}


@pytest.mark.parametrize(
    ('name', 'text'),
    [
        ('a.csv', 'x,y\n1,2\n'), ('a.csv', 'frame,label\nz,2\n'), ('a.csv', 'frame,label\n'),
        ('a.csv', f'frame,label\n1,"{"x" * 200_000}\n'), ('a.yaml', '- 1'), ('a.json', '{'),
    ],
)  # fmt: skip
def test_files_of_labels_that_are_none_are_refused(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(LabelError, match=name):
        Truth.load(tmp_path / name)


def test_a_clock_that_is_set_makes_no_pause(
    world: World, frames: list[Frame], tmp_path: Path
) -> None:
    # As of a camera that starts before the robot knows the time.
    early = [replace(frame, stamp_ns=i * 33_000_000) for i, frame in enumerate(frames[:3])]
    late = [replace(frame, stamp_ns=1_700_000_000 * 10**9 + frame.stamp_ns) for frame in frames[3:]]
    for name, recorded in (('forward', early + late), ('back', late + early)):
        write_bag(tmp_path / name, recorded)
        times = [each.time for each in run(world, tmp_path / name).outcomes['fixed']]
        assert np.diff(times) == pytest.approx(0.033, abs=1e-3)


def test_unknown_labels_of_all_sources_are_counted(world: World, tmp_path: Path) -> None:
    with np.load(world[1]) as packed:
        images = packed['images'][:3]
    for name in ('one.npz', 'two.npz'):
        np.savez(tmp_path / name, images=images, labels=np.array(['0', 'owl', 'owl']))
    result = run(world, tmp_path / 'one.npz', tmp_path / 'two.npz')
    assert result.summary['unknown_labels'] == {'owl': 4}
