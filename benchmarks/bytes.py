# Copyright 2026 The sparse_split_ros authors
# SPDX-License-Identifier: Apache-2.0
"""Accuracy against bytes: features behind a cut, and the picture itself as JPEG or WebP.

A robot that sends every frame can send what our bottlenecks give, or a compressed picture for the
full network on the other side. For each format that network is fine-tuned on pictures compressed at
random quality and size, from the same checkpoint, so that it meets what it was trained on.

Bytes are of the payload. Of a JPEG only the entropy-coded scan counts, as both sides could share
quantisation and Huffman tables and the size; of a WebP all but the 20 bytes of its RIFF container.

    python benchmarks/bytes.py runs/gtsrb32 --data DATA --out runs/bytes --json bytes.json
"""

from __future__ import annotations

import argparse
import copy
import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from tqdm import tqdm

from sparse_split_ros.data.augment import augment
from sparse_split_ros.data.datasets import LabelledImages
from sparse_split_ros.networks.bottleneck import quantise
from sparse_split_ros.networks.staged import StagedNetwork
from sparse_split_ros.training.calibrate import interval
from sparse_split_ros.training.checkpoint import load_checkpoint, save_checkpoint
from sparse_split_ros.training.predict import normalise, predict
from sparse_split_ros.training.recipe import Recipe, input_spec, load_split

Image = NDArray[np.uint8]

QUALITIES = {'jpeg': (3, 6, 10, 18, 30, 50, 75, 90), 'webp': (1, 5, 12, 25, 50, 75, 90)}
SIDES = (16, 24, 32)
BITS = (4, 8, 16, 32)
LIMIT = 1024
RATES = (64, 88, 96, 112, 128, 160, 192, 256, 352, 512, 704, 1024)
_RIFF_BYTES = 20


@dataclass(frozen=True)
class Point:
    """One way to send a frame, and what it gave on the images looked at."""

    way: str
    setting: str
    payload: NDArray[np.int64]
    """(N,) bytes."""
    correct: NDArray[np.bool_]
    """(N,) whether the answer was right."""


def compress(image: Image, kind: str, quality: int, side: int) -> tuple[Image, int]:
    """An RGB image (H, W, 3) after it was sent at `side` x `side`, and the bytes that took."""
    own = image.shape[0]
    small = cv2.resize(image, (side, side), interpolation=cv2.INTER_AREA) if side < own else image
    flag = cv2.IMWRITE_JPEG_QUALITY if kind == 'jpeg' else cv2.IMWRITE_WEBP_QUALITY
    done, data = cv2.imencode(f'.{kind}', np.ascontiguousarray(small[..., ::-1]), [flag, quality])
    if not done:
        raise RuntimeError(f'this OpenCV cannot write {kind}')
    decoded = cv2.imdecode(data, cv2.IMREAD_COLOR)
    assert decoded is not None
    back = decoded[..., ::-1]
    if side < own:
        back = cv2.resize(back, (own, own), interpolation=cv2.INTER_CUBIC)
    size = scan_bytes(data.tobytes()) if kind == 'jpeg' else len(data) - _RIFF_BYTES
    return np.ascontiguousarray(back), size


def scan_bytes(jpeg: bytes) -> int:
    """Length of the entropy-coded data of a baseline JPEG, between SOS header and EOI."""
    place = 2
    while jpeg[place + 1] != 0xDA:
        place += 2 + int.from_bytes(jpeg[place + 2 : place + 4], 'big')
    place += 2 + int.from_bytes(jpeg[place + 2 : place + 4], 'big')
    return len(jpeg) - place - 2


def tune(
    network: StagedNetwork, recipe: Recipe, training: LabelledImages, kind: str, epochs: int
) -> StagedNetwork:
    """A copy of the network, trained on for pictures of one format; its final exit counts."""
    network = copy.deepcopy(network).train()
    spec, final = input_spec(recipe, network), network.exit_stages[-1]
    optimiser = torch.optim.AdamW(network.parameters(), weight_decay=recipe.weight_decay)
    rng = np.random.default_rng([recipe.seed, len(kind), epochs])
    steps = len(training) // recipe.batch_size
    for epoch in range(epochs):
        order = rng.permutation(len(training))[: steps * recipe.batch_size]
        for step, rows in enumerate(tqdm(order.reshape(steps, -1), f'{kind} {epoch + 1}/{epochs}')):
            progress = (epoch * steps + step) / (epochs * steps)
            for group in optimiser.param_groups:
                group['lr'] = 0.3 * recipe.learning_rate * 0.5 * (1 + math.cos(math.pi * progress))
            images = [
                compress(
                    augment(rng, training.images[row], recipe.augmentation),
                    kind,
                    int(np.exp(rng.uniform(0, math.log(95)))),
                    int(rng.choice(SIDES)),
                )[0]
                for row in rows
            ]
            x = normalise(torch.from_numpy(np.stack(images)), spec)
            mixed = recipe.precision == 'bfloat16'
            with torch.autocast('cpu', torch.bfloat16, enabled=mixed):
                logits = network(x).logits[final].float()
            labels = torch.from_numpy(training.labels[rows])
            loss = F.cross_entropy(logits, labels, label_smoothing=recipe.label_smoothing)
            optimiser.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
    return network.eval()


def pictures(
    network: StagedNetwork, recipe: Recipe, data: LabelledImages, kind: str
) -> Iterator[Point]:
    """The full network on pictures at every quality and size."""
    spec = input_spec(recipe, network)
    for side in SIDES:
        for quality in QUALITIES[kind]:
            sent = [compress(image, kind, quality, side) for image in data.images]
            logits = predict(network, np.stack([image for image, _ in sent]), spec)
            yield Point(
                kind,
                f'{side} px, quality {quality}',
                np.array([size for _, size in sent]),
                logits[max(logits)].argmax(axis=1) == data.labels,
            )


@torch.inference_mode()
def features(network: StagedNetwork, recipe: Recipe, data: LabelledImages) -> Iterator[Point]:
    """The network cut in two, at every split and number of bits."""
    spec, final = input_spec(recipe, network), network.exit_stages[-1]
    for split in network.split_stages:
        bottleneck = network.bottleneck_at(split)
        right: dict[int, list[NDArray[np.bool_]]] = {bits: [] for bits in BITS}
        values = 0
        for first in range(0, len(data), 256):
            x = normalise(torch.from_numpy(data.images[first : first + 256]), spec)
            for stage in network.stages[: split + 1]:
                x = stage(x)
            codes = bottleneck.encoder(x)
            values = codes[0].numel()
            for bits in BITS:
                y = bottleneck.decoder(quantise(codes, bits) if bits < 16 else codes)
                for stage in network.stages[split + 1 :]:
                    y = stage(y)
                answer = network.exit_at(final)(y).argmax(1).numpy()
                right[bits].append(answer == data.labels[first : first + 256])
        for bits in BITS:
            payload = np.full(len(data), math.ceil(values * bits / 8))
            yield Point(
                'features', f'cut {split}, {bits} bits', payload, np.concatenate(right[bits])
            )


def best(points: list[Point], way: str, rate: int) -> int | None:
    """The most accurate setting of one way whose mean payload is at most `rate` bytes."""
    fits = [
        (point.correct.mean(), -point.payload.mean(), index)
        for index, point in enumerate(points)
        if point.way == way and point.payload.mean() <= rate
    ]
    return max(fits)[2] if fits else None


def compared(
    chosen: list[Point], reported: list[Point], groups: NDArray[np.int64]
) -> Iterator[dict[str, Any]]:
    """Our best against each rival's at every rate, chosen on one set and reported on another."""
    for rate in RATES:
        row: dict[str, Any] = {'rate': rate}
        ours = best(chosen, 'features', rate)
        for way in ('features', 'jpeg', 'webp'):
            index = best(chosen, way, rate)
            if index is None:
                continue
            point = reported[index]
            row |= {way: float(point.correct.mean()), f'{way}_setting': point.setting}
            if ours is not None and way != 'features':
                gain = reported[ours].correct.astype(float) - point.correct
                row[f'over_{way}'] = [float(gain.mean()), *interval(gain, groups)]
        yield row


def record(point: Point, groups: NDArray[np.int64]) -> dict[str, Any]:
    """A point as a row of the table."""
    return {
        'way': point.way,
        'setting': point.setting,
        'mean_bytes': float(point.payload.mean()),
        'max_bytes': int(point.payload.max()),
        'accuracy': float(point.correct.mean()),
        'interval': interval(point.correct, groups),
    }


def draw(rows: list[dict[str, Any]], whole: float, path: Path) -> None:
    """All points, and the front of each way, as a PNG file."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4.2), layout='constrained')
    axis = figure.subplots()
    for colour, way in enumerate(('features', 'jpeg', 'webp')):
        points = sorted((r['mean_bytes'], r['accuracy']) for r in rows if r['way'] == way)
        x, y = np.array(points).T
        axis.scatter(x, 100 * y, s=10, color=f'C{colour}', alpha=0.5)
        axis.step(x, 100 * np.maximum.accumulate(y), where='post', color=f'C{colour}', label=way)
    axis.axhline(100 * whole, color='0.6', linestyle=':', label='uncompressed')
    low = np.quantile([100 * r['accuracy'] for r in rows], 0.2)
    axis.set(xscale='log', xlim=(30, LIMIT), ylim=(low, 100))
    axis.set(xlabel='mean payload, bytes', ylabel='accuracy of the full network, %')
    axis.legend()
    figure.savefig(path, dpi=150)


def measured(
    networks: dict[str, StagedNetwork], recipe: Recipe, data: LabelledImages
) -> list[Point]:
    """Every way and setting, in one order whatever the data."""
    points = list(features(networks['features'], recipe, data))
    for kind in QUALITIES:
        points += pictures(networks[kind], recipe, data, kind)
    return points


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('checkpoint', type=Path, help='run directory or .safetensors file')
    parser.add_argument('--data', type=Path, help='the data of the training (SPARSE_SPLIT_DATA)')
    parser.add_argument('--out', type=Path, default=Path('runs/bytes'), help='tuned checkpoints')
    parser.add_argument('--epochs', type=int, default=3, help='of fine-tuning, for each format')
    parser.add_argument('--every', type=int, default=1, help='look at every n-th image only')
    parser.add_argument('--threads', type=int, default=1)
    parser.add_argument('--json', type=Path, help='write the figures to this file too')
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    network, recipe, meta = load_checkpoint(options.checkpoint)

    def load(split: str) -> LabelledImages:
        images = load_split(recipe, options.data, split)
        return images.take(np.arange(0, len(images), options.every))

    options.out.mkdir(parents=True, exist_ok=True)
    networks = {'features': network}
    for kind in QUALITIES:
        kept = options.out / f'{kind}.safetensors'
        if not kept.is_file():
            tuned = tune(network, recipe, load('train'), kind, options.epochs)
            save_checkpoint(kept.with_suffix(''), meta, tuned)
        networks[kind] = load_checkpoint(kept)[0]
    chosen = measured(networks, recipe, load('select'))
    report = load('report')
    reported = measured(networks, recipe, report)
    whole = predict(network, report.images, input_spec(recipe, network))
    uncompressed = float((whole[max(whole)].argmax(axis=1) == report.labels).mean())

    rows = [record(point, report.groups) for point in reported]
    print(f'{len(report)} frames, uncompressed {uncompressed:.2%}\n')
    print('| way | setting | mean bytes | most | accuracy | interval |\n|' + ' --- |' * 6)
    for row in sorted(rows, key=lambda row: row['mean_bytes']):
        low, high = row['interval']
        print(
            f'| {row["way"]} | {row["setting"]} | {row["mean_bytes"]:.0f} | {row["max_bytes"]} | '
            f'{row["accuracy"]:.2%} | {100 * low:.2f} to {100 * high:.2f} |'
        )
    table = list(compared(chosen, reported, report.groups))
    print('\nbest at a mean payload of at most so many bytes, chosen on the selection split:\n')
    print('| bytes | features | JPEG | WebP | over JPEG | over WebP |\n|' + ' --- |' * 6)
    for row in table:
        shown = [f'{row[way]:.2%}' if way in row else '' for way in ('features', 'jpeg', 'webp')]
        for way in ('jpeg', 'webp'):
            gain = row.get(f'over_{way}')
            shown.append(
                f'{100 * gain[0]:+.2f} ({100 * gain[1]:+.2f} to {100 * gain[2]:+.2f})'
                if gain
                else ''
            )
        print(f'| {row["rate"]} | ' + ' | '.join(shown) + ' |')
    draw(rows, uncompressed, options.out / 'bytes.png')
    if options.json:
        found = {'uncompressed': uncompressed, 'points': rows, 'rates': table}
        options.json.write_text(json.dumps(found, indent=1) + '\n', encoding='utf-8')


if __name__ == '__main__':
    main()
