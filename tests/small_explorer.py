"""What the tests of the explorer share: a small one, what it carries, its mathematics without a page, and drawings."""

import functools
import json
from base64 import b64decode, b64encode
from pathlib import Path

import numpy as np
import torch

import vae_utils as vae

ROOT = Path(__file__).parent.parent
MNIST = vae.load_mnist(ROOT / "data", download=False)


@functools.cache
def small_model():
    """A small model after a short training: its numbers are of the size that real ones have."""
    torch.manual_seed(0)
    model = vae.mlp_vae(2, (48, 32))
    vae.fit(model, MNIST.train_images[:6000], epochs=2, progress=False)
    return model


def data_of(path):
    """The text in which a page carries its data."""
    return path.read_text(encoding="utf-8").split('<script type="application/json" id="data">')[1].split("</script>")[0]


def page_data(path):
    """What a page carries, with its numbers unpacked."""

    def numbers(item):
        return np.frombuffer(b64decode(item["int16"]), "<i2") * item["scale"] if "int16" in item else item

    data = json.loads(data_of(path), object_hook=numbers)
    return data | {key: np.frombuffer(b64decode(data[key]), np.uint8) for key in ("labels", "images", "imageLabels")}


def model_of(data):
    """The model of `page_data` as PyTorch has it."""
    model = vae.mlp_vae(2, tuple(len(layer["bias"]) for layer in data["encoder"][:-1]))
    for name in ("encoder", "decoder"):
        for layer, packed in zip(getattr(model, name)[::2], data[name], strict=True):
            layer.weight.data = torch.tensor(packed["weight"]).float().view_as(layer.weight)
            layer.bias.data = torch.tensor(packed["bias"]).float()
    return model


def open_maths(open_window, path):
    """A worker, where there is no page, with all that model.js exports and with `model`: that of the page at `path`."""
    code = b64encode((ROOT / "explorer" / "source" / "model.js").read_bytes()).decode()
    start = f'import * as all from "data:text/javascript;base64,{code}"; Object.assign(globalThis, all);'
    window = open_window("about:blank")
    with window.expect_worker() as worker:
        window.evaluate("code => { new Worker(`data:text/javascript,${code}`, { type: 'module' }); }", start)
    packed = {name: layers for name, layers in json.loads(data_of(path)).items() if name in ("encoder", "decoder")}
    script = """packed => { const unpack = layers => layers.map(unpackLayer);
        globalThis.model = { encoder: unpack(packed.encoder), decoder: unpack(packed.decoder) }; }"""
    worker.value.evaluate(script, packed)
    return worker.value


def search_best_codes(maths, images, first=""):
    """What the search finds for each image: mu, logvar, the loss, and the nats that the encoder missed."""
    script = (
        f"xs => {{ const grid = createGrid(model, 3.4); {first};"
        + """return xs.map(x => {
        x = new Float32Array(x);
        const search = searchBestCode(grid, x, encode(model, x));
        let step = search.next();
        while (!step.done) step = search.next();
        return [step.value.mu, step.value.logvar, step.value.loss, step.value.missed]; }); }"""
    )
    return map(torch.tensor, zip(*maths.evaluate(script, images.tolist()), strict=True))


# Strokes in shares of the pad's side; y grows downwards.
STROKES = {
    0: [[(0.55, 0.18), (0.36, 0.26), (0.28, 0.5), (0.36, 0.76), (0.52, 0.82), (0.68, 0.7), (0.72, 0.4), (0.55, 0.18)]],
    1: [[(0.55, 0.18), (0.47, 0.82)]],
    2: [[(0.32, 0.3), (0.48, 0.18), (0.66, 0.26), (0.66, 0.42), (0.3, 0.8), (0.74, 0.8)]],
    3: [[(0.3, 0.2), (0.6, 0.2), (0.66, 0.36), (0.46, 0.48), (0.66, 0.62), (0.6, 0.8), (0.3, 0.82)]],
    4: [[(0.36, 0.2), (0.3, 0.52), (0.68, 0.5)], [(0.66, 0.18), (0.6, 0.84)]],
}
