#!/usr/bin/env python3
"""Classifies the digits in Python, to check what the WebAssembly program says.

This file states the arithmetic of the example (README.md describes it in words) a second time and in another way than
program/: whole batches at once, through matrix products. It reads the same two files, the model and the images, and
shares no code with the program. train.py takes load_images, warp and logits from here.

    reference.py                     print every line that the 60 indexes together must write
    reference.py -o expected.csv     write them to a file
    reference.py --accuracy          print the accuracy on the held-back images
"""

import argparse
import json
import pathlib
import sys

import numpy as np

HERE = pathlib.Path(__file__).resolve().parent
SIDE = 8
PIXELS = SIDE * SIDE
CLASSES = 10
INK = 16  # the darkest pixel in the data
ONE = 4096  # 1.0 in a picture, a matrix and a translation
EXACT = 2.0**53  # up to here a float64 holds every integer


class BadInput(Exception):
    """A file is missing or is not what it should be; the message says which and why."""


def load_images(path):
    """Gives (pixels, labels): int64 arrays of shape (n, 64), values 0 to 16, and (n,)."""
    try:
        table = np.loadtxt(path, delimiter=",", dtype=np.int64, ndmin=2)
    except (OSError, ValueError) as error:
        raise BadInput(f"failed to read images from {path}: {error}") from error
    if table.shape[0] == 0 or table.shape[1] != PIXELS + 1:
        raise BadInput(f"failed to read images from {path}: a line must have 64 pixels and a label")
    pixels, labels = table[:, :PIXELS], table[:, PIXELS]
    if pixels.min() < 0 or pixels.max() > INK or labels.min() < 0 or labels.max() >= CLASSES:
        raise BadInput(f"failed to read images from {path}: pixels are 0 to 16, labels 0 to 9")
    return pixels, labels


def load_model(path):
    """Gives the model as json.load does, its layers turned into arrays and its magnitudes checked."""
    try:
        model = json.loads(pathlib.Path(path).read_text(encoding="ascii"))
    except (OSError, ValueError) as error:
        raise BadInput(f"failed to read model from {path}: {error}") from error
    if model.get("format") != "kerbside-digits/1":
        raise BadInput(f"failed to read model from {path}: its format is {model.get('format')!r}, not 'kerbside-digits/1'")
    try:
        model["layers"] = [
            (np.array(layer["weights"], np.int64), np.array(layer["bias"], np.int64), int(layer["shift"]))
            for layer in model["layers"]
        ]
        check_bounds(model["layers"], len(model["shifts"]) * len(model["matrices"]))
    except (KeyError, TypeError, ValueError) as error:
        raise BadInput(f"failed to read model from {path}: {error!r}") from error
    return model


def check_bounds(layers, augmentations):
    """Refuses a model whose sums could leave the range in which float64 is exact: logits() relies on it."""
    bound = np.full(layers[0][0].shape[1], float(INK * 256))
    for weights, bias, shift in layers:
        bound = np.abs(weights) @ bound + np.abs(bias)
        if bound.max() >= EXACT:
            raise BadInput("failed to accept model: a sum of a layer could pass 2^53")
        bound = np.floor(bound / 2.0**shift)
    if bound.max() * augmentations >= EXACT:
        raise BadInput("failed to accept model: the sum over all augmentations could pass 2^53")


def warp(pixels, matrices, shifts):
    """Moves each picture by its own matrix and shift; gives values 0 to 4096 (16 times 256).

    matrices (n, 4) and shifts (n, 2) are in 1/4096 and 1/4096 pixel. Output pixel (x, y) takes its value from the
    source point: centre + matrix * ((x, y) - centre) + shift, in 1/256 pixel, rounded down; outside is blank.
    """
    grid = np.arange(SIDE, dtype=np.int64)
    u = np.tile(2 * grid - (SIDE - 1), SIDE)  # from the centre, in half pixels
    v = np.repeat(2 * grid - (SIDE - 1), SIDE)
    centre = (SIDE - 1) * ONE
    source_x = (centre + matrices[:, 0:1] * u + matrices[:, 1:2] * v + 2 * shifts[:, 0:1]) >> 5
    source_y = (centre + matrices[:, 2:3] * u + matrices[:, 3:4] * v + 2 * shifts[:, 1:2]) >> 5
    x, y, fx, fy = source_x >> 8, source_y >> 8, source_x & 255, source_y & 255

    framed = np.zeros((len(pixels), SIDE + 2, SIDE + 2), np.int64)
    framed[:, 1:-1, 1:-1] = pixels.reshape(-1, SIDE, SIDE)
    row = np.arange(len(pixels))[:, None]

    def at(px, py):
        return framed[row, np.clip(py + 1, 0, SIDE + 1), np.clip(px + 1, 0, SIDE + 1)]

    above = at(x, y) * (256 - fx) + at(x + 1, y) * fx
    below = at(x, y + 1) * (256 - fx) + at(x + 1, y + 1) * fx
    return (above * (256 - fy) + below * fy) >> 8


def logits(layers, values):
    """Runs the layers over integer inputs (n, 64); gives integer logits (n, 10).

    The products run in float64 because numpy's are fast there; check_bounds() has shown that each sum is exact.
    """
    for number, (weights, bias, shift) in enumerate(layers):
        values = (values.astype(np.float64) @ weights.T.astype(np.float64)).astype(np.int64) + bias
        if number + 1 < len(layers):
            values = np.maximum(values, 0)
        values >>= shift
    return values


def classify(model, pixels):
    """Gives (predicted label, margin over the second best) for each picture, summed over all augmentations."""
    total = np.zeros((len(pixels), CLASSES), np.int64)
    for matrix in model["matrices"]:
        for shift in model["shifts"]:
            moved = warp(pixels, np.array([matrix], np.int64), np.array([shift], np.int64))
            total += logits(model["layers"], moved)
    ranked = np.sort(total, axis=1)
    return total.argmax(axis=1), ranked[:, -1] - ranked[:, -2]


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", default=HERE / "model" / "model.json", help="the model artefact")
    parser.add_argument("--data", default=HERE / "data" / "digits.csv", help="the images")
    parser.add_argument("-o", "--output", help="write the lines to this file")
    parser.add_argument("--accuracy", action="store_true", help="print the accuracy on the held-back images and end")
    options = parser.parse_args()

    model = load_model(options.model)
    pixels, labels = load_images(options.data)
    if options.accuracy:
        first = model["heldBack"]["first"]
        predicted, _ = classify(model, pixels[first:])
        correct = int((predicted == labels[first:]).sum())
        held_back = len(labels) - first
        print(f"held-back images {first} to {len(labels) - 1}: {correct} of {held_back} correct, {correct / held_back:.4f}")
        return
    predicted, margin = classify(model, pixels)
    lines = "".join(f"{i},{p},{m},{t}\n" for i, (p, m, t) in enumerate(zip(predicted, margin, labels)))
    if options.output:
        pathlib.Path(options.output).write_text(lines, encoding="ascii")
    else:
        sys.stdout.write(lines)


if __name__ == "__main__":
    try:
        main()
    except BadInput as error:
        sys.exit(f"reference.py: {error}")
