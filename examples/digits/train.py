#!/usr/bin/env python3
"""Trains the digits classifier and writes model/model.json.

Every run, on any machine, gives the same bytes. Two things make that so. Before each matrix product both sides are
rounded to a binary grid so coarse that float64 holds every partial sum exactly: no order of summation, no number of
threads and no fused multiply-add can change the result. And nothing else here goes beyond + - * / and sqrt, which
IEEE 754 defines to the last bit; there is no exp, sin or log from a library.

    train.py                 train on the first two thirds, write the model, print the accuracy on the last third
    train.py --validate      train on the first half of those, print the accuracy on their other half, write nothing
"""

import argparse
import json
import math
import pathlib

import numpy as np

from reference import CLASSES, ONE, PIXELS, check_bounds, classify, load_images, logits, warp

HERE = pathlib.Path(__file__).resolve().parent
SEED = 20240711
HIDDEN = (192, 96)
EPOCHS = 400
BATCH = 128
RATE = 0.002
DECAY = 0.01  # of the weights, per unit of learning rate
SMOOTHING = 0.05  # of the labels
DROP = (1, 4)  # hidden units switched off while training: this many of that many
AVERAGE = 0.998  # the model is a running average of the weights, over about 500 steps

# Bits behind the binary point, and the largest magnitude, of what enters a matrix product.
WEIGHT_GRID = (16, 4)
HIDDEN_GRID = (14, 64)
ERROR_GRID = (20, 16)
# Bits behind the binary point in the artefact: weights and hidden values; biases have twice as many.
FRACTION = 12


def augmentations():
    """Gives the test-time augmentations (matrices, shifts), all integers: a grid around the upright picture."""
    matrices = []
    for scale in (-320, 0, 320):  # 8 % wider and narrower pictures
        for turn in (-512, -256, 0, 256, 512):  # of the sine, about 7 and 3.5 degrees
            for slant in (-512, 0, 512):  # 1/8 pixel per pixel
                cosine = ONE - turn * turn // (2 * ONE)
                matrices.append([cosine + scale, slant - turn, turn, cosine + scale])
    steps = range(-1536, 1537, 512)  # up to 3/8 pixel, by 1/8
    shifts = [[dx, dy] for dy in steps for dx in steps]
    return matrices, shifts


def random_views(random, count):
    """Gives (matrices, shifts) for training: wider than at test time, and each picture has its own."""
    def uniform(limit):
        return random.integers(-limit, limit + 1, count)

    turn, slant, scale, stretch = uniform(900), uniform(900), uniform(500), uniform(400)
    cosine = ONE - turn * turn // (2 * ONE)
    matrices = np.stack([cosine + scale + stretch, slant - turn, turn, cosine + scale - stretch], axis=1)
    return matrices, np.stack([uniform(4096), uniform(4096)], axis=1)


def snap(values, grid):
    """Rounds to multiples of 2^-bits within the limit."""
    bits, limit = grid
    return np.clip(np.rint(values * 2.0**bits) / 2.0**bits, -limit, limit)


def softmax(scores):
    """(1 + x / 65536)^65536 stands in for e^x: it needs multiplication only, and training does not mind."""
    power = 1.0 + np.maximum(scores - scores.max(axis=1, keepdims=True), -40.0) / 65536.0
    for _ in range(16):
        power = power * power
    power = snap(power, (30, 1))
    return power / power.sum(axis=1, keepdims=True)


class Network:
    """Fully connected layers with ReLU between them, trained by Adam with decoupled weight decay."""

    def __init__(self, random):
        sizes = (PIXELS, *HIDDEN, CLASSES)
        self.parameters = []
        for fan_in, fan_out in zip(sizes, sizes[1:]):
            limit = math.sqrt(6.0 / fan_in)
            self.parameters.append((2.0 * random.random((fan_out, fan_in)) - 1.0) * limit)
            self.parameters.append(np.zeros(fan_out))
        self.first_moments = [np.zeros_like(p) for p in self.parameters]
        self.second_moments = [np.zeros_like(p) for p in self.parameters]
        self.average = [p.copy() for p in self.parameters]
        self.first_power = self.second_power = 1.0

    def gradients(self, values, targets, random):
        """Gives the gradient of the cross-entropy for each parameter."""
        inputs, masks = [values], []
        last = len(self.parameters) - 2
        for at in range(0, last + 2, 2):
            weights, bias = snap(self.parameters[at], WEIGHT_GRID), self.parameters[at + 1]
            scores = inputs[-1] @ weights.T + bias
            if at < last:
                off, of = DROP
                keep = (scores > 0) & (random.integers(0, of, scores.shape) >= off)
                masks.append(keep * (of / (of - off)))
                inputs.append(snap(scores * masks[-1], HIDDEN_GRID))
        error = snap(softmax(scores) - targets, ERROR_GRID)
        found = [None] * len(self.parameters)
        for at in range(last, -1, -2):
            found[at] = error.T @ inputs[at // 2] / len(values)
            found[at + 1] = error.sum(axis=0) / len(values)
            if at > 0:
                back = error @ snap(self.parameters[at], WEIGHT_GRID)
                error = snap(back * masks[at // 2 - 1], ERROR_GRID)
        return found

    def step(self, gradients, rate):
        self.first_power *= 0.9
        self.second_power *= 0.999
        for at, gradient in enumerate(gradients):
            self.first_moments[at] = 0.9 * self.first_moments[at] + 0.1 * gradient
            self.second_moments[at] = 0.999 * self.second_moments[at] + 0.001 * gradient * gradient
            first = self.first_moments[at] / (1.0 - self.first_power)
            second = self.second_moments[at] / (1.0 - self.second_power)
            moved = self.parameters[at] - rate * first / (np.sqrt(second) + 1e-8)
            if at % 2 == 0:
                moved = moved - rate * DECAY * self.parameters[at]
            self.parameters[at] = moved
            self.average[at] = AVERAGE * self.average[at] + (1.0 - AVERAGE) * moved

    def quantised(self):
        """Gives the averaged layers as integers (weights, bias, shift)."""
        layers = []
        last = len(self.average) - 2
        for at in range(0, last + 2, 2):
            weights = np.clip(np.rint(self.average[at] * 2.0**FRACTION), -32768, 32767).astype(np.int64)
            bias = np.rint(self.average[at + 1] * 2.0 ** (2 * FRACTION)).astype(np.int64)
            layers.append((weights, bias, 0 if at == last else FRACTION))
        return layers


def train(pixels, labels, epochs):
    """Gives the integer layers."""
    random = np.random.Generator(np.random.PCG64(SEED))
    network = Network(random)
    targets = np.full((len(labels), CLASSES), SMOOTHING / CLASSES)
    targets[np.arange(len(labels)), labels] += 1.0 - SMOOTHING
    for epoch in range(epochs):
        rate = RATE * (1.0 - epoch / epochs)
        values = warp(pixels, *random_views(random, len(pixels))) / ONE
        order = random.permutation(len(pixels))
        for start in range(0, len(order), BATCH):
            chosen = order[start : start + BATCH]
            network.step(network.gradients(values[chosen], targets[chosen], random), rate)
        if (epoch + 1) % 50 == 0:
            layers = network.quantised()
            plain = logits(layers, pixels * 256).argmax(axis=1)
            print(f"epoch {epoch + 1} of {epochs}: {(plain == labels).mean():.4f} of the training images right", flush=True)
    return network.quantised()


def rows(table, indent):
    """JSON with one inner list to a line, so that a change of the model can be read as a difference."""
    lines = (",\n" + indent).join(json.dumps(row, separators=(",", ":")) for row in table)
    return f"[\n{indent}{lines}\n{indent[:-2]}]"


def write(path, layers, matrices, shifts, held_back):
    """Writes the artefact; README.md describes the format."""
    parts = [
        f'{{"weights": {rows(weights.tolist(), "      ")},\n     "bias": {json.dumps(bias.tolist(), separators=(",", ":"))},'
        f'\n     "shift": {shift}}}'
        for weights, bias, shift in layers
    ]
    text = (
        '{\n  "format": "kerbside-digits/1",\n'
        f'  "heldBack": {json.dumps(held_back)},\n'
        f'  "matrices": {rows(matrices, "    ")},\n'
        f'  "shifts": {rows(shifts, "    ")},\n'
        '  "layers": [\n    ' + ",\n    ".join(parts) + "\n  ]\n}\n"
    )
    path.parent.mkdir(exist_ok=True)
    path.write_text(text, encoding="ascii")


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", default=HERE / "data" / "digits.csv", help="the images")
    parser.add_argument("-o", "--output", default=HERE / "model" / "model.json", type=pathlib.Path, help="the model artefact")
    parser.add_argument("--epochs", default=EPOCHS, type=int, help=f"passes over the training images; default {EPOCHS}")
    parser.add_argument("--validate", action="store_true", help="use no held-back image: compare settings with this")
    options = parser.parse_args()

    pixels, labels = load_images(options.data)
    first = len(pixels) * 2 // 3
    pixels, labels, held_pixels, held_labels = pixels[:first], labels[:first], pixels[first:], labels[first:]
    if options.validate:
        half = first // 2
        pixels, labels, held_pixels, held_labels = pixels[:half], labels[:half], pixels[half:], labels[half:]

    layers = train(pixels, labels, options.epochs)
    matrices, shifts = augmentations()
    check_bounds(layers, len(matrices) * len(shifts))
    plain = int((logits(layers, held_pixels * 256).argmax(axis=1) == held_labels).sum())
    predicted, _ = classify({"layers": layers, "matrices": matrices, "shifts": shifts}, held_pixels)
    correct = int((predicted == held_labels).sum())
    count = len(held_labels)
    print(f"held back {count}: {plain} right as they are ({plain / count:.4f}), {correct} with {len(matrices) * len(shifts)} augmentations ({correct / count:.4f})")
    if not options.validate:
        write(options.output, layers, matrices, shifts, {"first": first, "count": count, "correct": correct})


if __name__ == "__main__":
    main()
