"""Checks: whatever is wrong with an argument, one error names it, says what came, and says what is wanted."""

import math

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from torch import nn

from vae_utils import (
    VAE,
    ConvDecoder,
    ConvEncoder,
    Decoder,
    Encoder,
    active_units,
    binarize,
    conv_vae,
    elbo,
    encode_dataset,
    estimate_log_likelihood,
    evaluate,
    fit,
    iwae,
    log_importance_weights,
    log_normal,
    mlp_vae,
    plot_history,
    plot_images,
    plot_latent_space,
    plot_manifold,
    plot_reconstructions,
    save_vae,
    show_table,
)

MODEL = mlp_vae(2, (8,))
IMAGES = torch.full((3, 784), 0.5)

# Every function that takes images, called with a model that is sound.
TAKE_IMAGES = {
    "fit": lambda images: fit(MODEL, images, epochs=1, progress=False),
    "fit, valid_images": lambda images: fit(MODEL, IMAGES, epochs=1, valid_images=images, progress=False),
    "evaluate": lambda images: evaluate(MODEL, images),
    "encode_dataset": lambda images: encode_dataset(MODEL, images),
    "estimate_log_likelihood": lambda images: estimate_log_likelihood(MODEL, images, num_samples=1),
    "encode": MODEL.encode,
    "reconstruct": MODEL.reconstruct,
    "elbo": lambda images: elbo(MODEL, images),
    "iwae": lambda images: iwae(MODEL, images, 2),
    "log_importance_weights": lambda images: log_importance_weights(MODEL, images, 2),
    "binarize": binarize,
    "plot_images": plot_images,
    "plot_reconstructions": lambda images: plot_reconstructions(IMAGES, images),
}
BAD_IMAGES = {
    "no tensor": (np.zeros((2, 784)), TypeError, "images must be a tensor of floating-point numbers, not ndarray"),
    "bytes": (torch.zeros(2, 784, dtype=torch.uint8), TypeError, "floating-point numbers, not a tensor of torch.uint8"),
    "unflattened": (torch.zeros(2, 28, 28), ValueError, r"images must have shape \(B, 784\) .*, not \(2, 28, 28\)"),
    "one image": (torch.zeros(784), ValueError, r"shape \(B, 784\) .*, not \(784,\)"),
    "too narrow": (torch.zeros(2, 783), ValueError, r"not \(2, 783\)"),
    "empty": (torch.zeros(0, 784), ValueError, r"B of 1 or more, not \(0, 784\)"),
    "to 255": (torch.full((2, 784), 255.0), ValueError, "images must hold values from 0 to 1, .* from 255 to 255"),
    "below 0": (torch.full((2, 784), -0.5), ValueError, "from 0 to 1, .* from -0.5 to"),
    "nan": (torch.full((2, 784), math.nan), ValueError, "from 0 to 1, .* nan"),
    "infinite": (torch.full((2, 784), math.inf), ValueError, "from 0 to 1, .* inf"),
}


@pytest.mark.parametrize("call", TAKE_IMAGES.values(), ids=TAKE_IMAGES.keys())
@pytest.mark.parametrize(("images", "error", "words"), BAD_IMAGES.values(), ids=BAD_IMAGES.keys())
def test_images(call, images, error, words):
    with pytest.raises(error, match=words):
        call(images)


def test_one_bad_pixel_is_enough():
    for value in (1.001, -0.001, math.nan, math.inf):
        images = IMAGES.clone()
        images[2, 783] = value
        with pytest.raises(ValueError, match="from 0 to 1"):
            evaluate(MODEL, images)
    assert binarize(torch.tensor([0.0, 1.0]).repeat(1, 392)).shape == (1, 784)  # both ends belong to the range


NEED_THE_DTYPE = ["fit", "fit, valid_images", "evaluate", "encode_dataset", "estimate_log_likelihood", "encode", "elbo"]


@pytest.mark.parametrize("name", NEED_THE_DTYPE)
def test_images_of_another_precision_than_the_model(name, tmp_path):
    with pytest.raises(TypeError, match=r"images must be of the model's torch.float32, not torch.float64"):
        TAKE_IMAGES[name](IMAGES.double())


def test_fit_refuses_before_it_writes_or_learns(tmp_path):
    with pytest.raises(TypeError, match="float64"):
        fit(MODEL, IMAGES, epochs=1, valid_images=IMAGES.double(), checkpoint=tmp_path / "run", progress=False)
    assert not list(tmp_path.iterdir())


def test_tensors_on_another_device_than_the_model():
    with pytest.raises(ValueError, match=r"images must be on the model's device, cpu, not on meta"):
        MODEL.encode(IMAGES.to("meta"))
    with pytest.raises(ValueError, match=r"codes must be on the model's device, cpu, not on meta"):
        MODEL.decode(torch.zeros(3, 2, device="meta"))


@pytest.mark.parametrize(("codes", "error", "words"), [
    ([[0.0, 0.0]], TypeError, "codes must be a tensor of floating-point numbers, not list"),
    (torch.zeros(3, 2, dtype=torch.long), TypeError, "not a tensor of torch.int64"),
    (torch.zeros(3, 2, dtype=torch.float64), TypeError, "model's torch.float32, not torch.float64"),
    (torch.zeros(3, 3), ValueError, r"codes must have shape \(..., 2\), not \(3, 3\)"),
    (torch.zeros(()), ValueError, r"codes must have shape \(..., 2\), not \(\)"),
])  # fmt: skip
def test_codes(codes, error, words):
    with pytest.raises(error, match=words):
        MODEL.decode(codes)


# Every whole number that a public function takes, and the least that it may be.
COUNTS = {
    "epochs": (1, lambda n: fit(MODEL, IMAGES, epochs=n, progress=False)),
    "batch_size": (1, lambda n: fit(MODEL, IMAGES, epochs=1, batch_size=n, progress=False)),
    "num_samples": (1, lambda n: fit(MODEL, IMAGES, epochs=1, num_samples=n, progress=False)),
    "seed": (0, lambda n: fit(MODEL, IMAGES, epochs=1, seed=n, progress=False)),
    "batch_size of evaluate": (1, lambda n: evaluate(MODEL, IMAGES, batch_size=n)),
    "batch_size of encode_dataset": (1, lambda n: encode_dataset(MODEL, IMAGES, batch_size=n)),
    "seed of evaluate": (0, lambda n: evaluate(MODEL, IMAGES, seed=n)),
    "num_samples of the estimate": (1, lambda n: estimate_log_likelihood(MODEL, IMAGES, num_samples=n)),
    "batch_size of the estimate": (
        1,
        lambda n: estimate_log_likelihood(MODEL, IMAGES, num_samples=1, batch_size=n),
    ),
    "seed of the estimate": (0, lambda n: estimate_log_likelihood(MODEL, IMAGES, num_samples=1, seed=n)),
    "num_samples of iwae": (1, lambda n: iwae(MODEL, IMAGES, n)),
    "num_samples of the weights": (1, lambda n: log_importance_weights(MODEL, IMAGES, n)),
    "n of sample": (1, MODEL.sample),
    "n of plot_manifold": (1, lambda n: plot_manifold(MODEL, n=n)),
    "columns": (1, lambda n: plot_images(IMAGES, columns=n)),
    "latent_dim": (1, lambda n: mlp_vae(n, (8,))),
    "latent_dim and every width in hidden_dims": (1, lambda n: mlp_vae(2, (8, n))),
    "latent_dim and every width of Encoder": (1, lambda n: Encoder(2, (n, 8))),
    "latent_dim and every width of Decoder": (1, lambda n: Decoder(n, (8,))),
    "latent_dim of conv_vae": (1, conv_vae),
    "channels": (1, lambda n: conv_vae(2, channels=n)),
    "hidden_dim": (1, lambda n: conv_vae(2, hidden_dim=n)),
    "depth": (1, lambda n: conv_vae(2, depth=n)),
    "latent_dim of ConvEncoder": (1, lambda n: ConvEncoder(n, 4, 8, 1)),
    "depth of ConvDecoder": (1, lambda n: ConvDecoder(2, 4, 8, n)),
}


@pytest.mark.parametrize(("name", "least", "call"), [(k, *v) for k, v in COUNTS.items()], ids=COUNTS.keys())
def test_whole_numbers(name, least, call):
    word = name.split(" of ")[0]
    for count in (least - 1, -7):
        with pytest.raises(ValueError, match=f"^{word}.* must be {least} or more, not {count}$"):
            call(count)
    for count in (2.0, "2", True, torch.tensor(2), [2]):
        with pytest.raises(TypeError, match=f"^{word}.* must be a whole number, not "):
            call(count)


def test_whole_numbers_of_numpy_are_whole_numbers(tmp_path):
    two = np.int64(2)
    model = mlp_vae(two, (two, two))
    path = tmp_path / "run"
    settings = {"epochs": two, "batch_size": two, "learning_rate": np.float32(0.01), "num_samples": two, "seed": two}
    assert fit(model, IMAGES, **settings, checkpoint=path, progress=False) == fit(
        model, IMAGES, **settings, checkpoint=path, progress=False
    )
    save_vae(model, tmp_path / "model")


@pytest.mark.parametrize(("name", "call"), [
    ("learning_rate", lambda x: fit(MODEL, IMAGES, epochs=1, learning_rate=x, progress=False)),
    ("beta", lambda x: fit(MODEL, IMAGES, epochs=1, beta=x, progress=False)),
    ("threshold", lambda x: active_units(torch.randn(5, 2), x)),
])  # fmt: skip
def test_numbers(name, call):
    for number in (-0.1, math.nan, math.inf, -math.inf):
        with pytest.raises(ValueError, match=f"^{name} must be 0 or more and finite, not {number}$"):
            call(number)
    for number in ("1", None, 1j, True):
        with pytest.raises(TypeError, match=f"^{name} must be a number, not "):
            call(number)


@pytest.mark.parametrize("call", [
    lambda model: fit(model, IMAGES, epochs=1, progress=False),
    lambda model: evaluate(model, IMAGES),
    lambda model: encode_dataset(model, IMAGES),
    lambda model: estimate_log_likelihood(model, IMAGES, num_samples=1),
    lambda model: save_vae(model, "nowhere/model"),
    plot_manifold,
], ids=["fit", "evaluate", "encode_dataset", "estimate_log_likelihood", "save_vae", "plot_manifold"])  # fmt: skip
def test_models(call):
    with pytest.raises(TypeError, match="model must be a VAE, not Linear"):
        call(nn.Linear(784, 2))
    with pytest.raises(ValueError, match="model must have weights"):
        call(VAE(nn.Identity(), nn.Identity()))


def test_parts_of_a_model():
    with pytest.raises(TypeError, match=r"encoder must be a torch.nn.Module, not 3"):
        VAE(3, nn.Identity())
    with pytest.raises(TypeError, match=r"decoder must be a torch.nn.Module, not 'x'"):
        VAE(nn.Identity(), "x")
    for hidden_dims in (256, "256", None, {256}):
        with pytest.raises(TypeError, match="hidden_dims must be a sequence of widths"):
            mlp_vae(2, hidden_dims)
    for make in (mlp_vae, Encoder, Decoder):
        with pytest.raises(ValueError, match="hidden_dims must name the width of one layer or more"):
            make(2, ())


@pytest.mark.parametrize(("mu", "error", "words"), [
    (torch.zeros(1, 2), ValueError, "mu must hold the codes of 2 images or more"),
    (torch.zeros(0, 2), ValueError, r"mu must have shape \(N, L\) with N of 1 or more, not \(0, 2\)"),
    (torch.zeros(4), ValueError, r"not \(4,\)"),
    (torch.tensor([[0.0, math.nan], [1.0, math.inf]]), ValueError, "mu must be finite, and holds 2 values"),
    ([[0.0]], TypeError, "mu must be a tensor of floating-point numbers, not list"),
])  # fmt: skip
def test_means_for_active_units(mu, error, words):
    with pytest.raises(error, match=words):
        active_units(mu)


@pytest.mark.parametrize(("labels", "error", "words"), [
    ([0, 1, 2], TypeError, "labels must be a tensor of whole numbers, not list"),
    (torch.zeros(3), TypeError, "labels must be a tensor of whole numbers, not a tensor of torch.float32"),
    (torch.tensor([0, 1]), ValueError, r"labels must have shape \(3,\), .* not \(2,\) from 0 to 1"),
    (torch.tensor([0, 1, 10]), ValueError, r"lie from 0 to 9, not \(3,\) from 0 to 10"),
    (torch.tensor([0, 1, -1]), ValueError, "from -1 to 1"),
    (torch.zeros(0, dtype=torch.long), ValueError, r"labels must have shape \(3,\), .* not \(0,\)"),
])  # fmt: skip
def test_labels_of_a_map(labels, error, words):
    with pytest.raises(error, match=words):
        plot_latent_space(torch.zeros(3, 2), labels)


def test_means_of_a_map_are_finite():
    with pytest.raises(ValueError, match="mu must be finite, and holds 6 values that are not"):
        plot_latent_space(torch.full((3, 2), math.nan), torch.tensor([0, 1, 2]))


def test_densities_of_other_widths():
    with pytest.raises(ValueError, match=r"last dimension, and have the shapes \(4, 2\), \(4, 1\), \(4, 2\)"):
        log_normal(torch.zeros(4, 2), torch.zeros(4, 1), torch.zeros(4, 2))
    with pytest.raises(ValueError, match="last dimension"):
        log_normal(torch.zeros(4, 2), torch.zeros(4, 2), torch.zeros(4, 1))


def test_what_plots_and_tables_are_given():
    with pytest.raises(ValueError, match="history must be the rows that fit returns"):
        plot_history([])
    with pytest.raises(ValueError, match=r"each with 'loss', not .*'epoch'"):
        plot_history([{"epoch": 1, "elbo": -1.0}], "loss")
    with pytest.raises(ValueError, match=r"as many images in each row, not \[2, 3\]"):
        plot_reconstructions(IMAGES[:2], IMAGES)
    with pytest.raises(ValueError, match=r"every row must have 2 cells, as the header has, not \[2, 1\]"):
        show_table(["model", "ELBO"], [["ours", 1], ["first"]])
    steps = torch.linspace(0, 1, 12)[:, None]
    assert plot_images((1 - steps) * torch.ones(1, 784) + steps * torch.ones(1, 784)).has_data()  # 1 but for a rounding
    plt.close("all")
