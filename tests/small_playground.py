"""What the tests of the playground share: its scripts in a worker without a page, and its weights in PyTorch."""

import functools
import json
from base64 import b64decode, b64encode

import numpy as np
import torch
from small_explorer import ROOT, data_of

import vae_utils as vae
from explorer.explorer import script_source

BUILT = ROOT / "explorer" / "playground.html"


def open_script(open_window, name):
    """A worker with all that a script and what it imports declare."""
    code = b64encode(script_source(name).encode()).decode()
    window = open_window("about:blank")
    with window.expect_worker() as worker:
        window.evaluate("code => { new Worker(`data:text/javascript;base64,${code}`); }", code)
    return worker.value


@functools.cache
def unpacked(page):
    """What a page carries: the model with its trained weights, and its training and held-out images."""
    data = json.loads(data_of(page))

    def numbers(packed):
        whole = np.frombuffer(b64decode(packed["int16"]), "<i2")
        return torch.tensor(whole * packed["scale"], dtype=torch.float64)

    model = vae.mlp_vae(2, (128, 64)).double()
    for name in ("encoder", "decoder"):
        for layer, packed in zip(getattr(model, name)[::2], data["weights"][name], strict=True):
            layer.weight.data = numbers(packed["weight"]).view_as(layer.weight)
            layer.bias.data = numbers(packed["bias"])
    images, held = (np.frombuffer(b64decode(data[name]), np.uint8).reshape(-1, 98) for name in ("images", "held"))
    return model, *(torch.tensor(np.unpackbits(some, axis=1), dtype=torch.float64) for some in (images, held))


def parameters_of(model):
    """Those of the page, in its order."""
    layers = [*model.encoder[::2], *model.decoder[::2]]
    return [parameter for layer in layers for parameter in (layer.weight, layer.bias)]
