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
    distance_to_prior,
    elbo,
    encode_dataset,
    estimate_log_likelihood,
    evaluate,
    fit,
    importance_weighted_bound,
    iwae,
    kl_divergence,
    log_bernoulli,
    log_importance_weights,
    log_normal,
    mlp_vae,
    plot_history,
    plot_images,
    plot_kl_per_dimension,
    plot_latent_space,
    plot_manifold,
    plot_posterior,
    plot_rate_distortion,
    plot_reconstructions,
    posterior_on_grid,
    reparameterize,
    save_vae,
    show_table,
    write_explorer,
)

MODEL = mlp_vae(2, (8,))
IMAGES = torch.full((3, 784), 0.5)
GRID = posterior_on_grid(MODEL, IMAGES, n=3)

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
    "posterior_on_grid": lambda images: posterior_on_grid(MODEL, images, n=3),
    "write_explorer": lambda images: write_explorer(MODEL, images, torch.tensor([1, 2, 3])),
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
    "n of posterior_on_grid": (2, lambda n: posterior_on_grid(MODEL, IMAGES, n=n)),
    "directions": (1, lambda n: distance_to_prior(torch.zeros(3, 2), directions=n)),
    "seed of distance_to_prior": (0, lambda n: distance_to_prior(torch.zeros(3, 2), seed=n)),
    "index of plot_posterior": (0, lambda n: plot_posterior(GRID, n, torch.zeros(2), torch.zeros(2))),
    "seed of write_explorer": (0, lambda n: write_explorer(MODEL, IMAGES, torch.tensor([1, 2, 3]), seed=n)),
    "columns": (1, lambda n: plot_images(IMAGES, columns=n)),
    "latent_dim": (1, lambda n: mlp_vae(n, (8,))),
    "latent_dim and every width in hidden_dims": (1, lambda n: mlp_vae(2, (8, n))),
    "latent_dim and every width of Encoder": (1, lambda n: Encoder(2, (n, 8))),
    "latent_dim and every width of Decoder": (1, lambda n: Decoder(n, (8,))),
    "latent_dim of Encoder": (1, lambda n: Encoder(n, (8,))),
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
    ("beta", lambda x: elbo(MODEL, IMAGES, beta=x)),
    ("limit", lambda x: posterior_on_grid(MODEL, IMAGES, limit=x, n=3)),
    ("width", lambda x: plot_posterior(GRID, 0, torch.zeros(2), torch.zeros(2), width=x)),
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
    lambda model: posterior_on_grid(model, IMAGES),
    lambda model: write_explorer(model, IMAGES, torch.tensor([1, 2, 3])),
    plot_manifold,
], ids=["fit", "evaluate", "encode_dataset", "estimate_log_likelihood", "save_vae", "posterior_on_grid",
        "write_explorer", "plot_manifold"])  # fmt: skip
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
    (torch.zeros(1, 2), ValueError, "^mu must hold the codes of 2 images or more, since .* and it holds 1$"),
    (torch.zeros(0, 2), ValueError, r"mu must have shape \(N, L\) with N of 1 or more, not \(0, 2\)"),
    (torch.zeros(4), ValueError, r"not \(4,\)"),
    (torch.tensor([[0.0, math.nan], [1.0, math.inf]]), ValueError, "mu must be finite, and holds 2 values"),
    ([[0.0]], TypeError, "mu must be a tensor of floating-point numbers, not list"),
])  # fmt: skip
def test_means_for_active_units(mu, error, words):
    with pytest.raises(error, match=words):
        active_units(mu)


def test_two_images_are_enough_for_active_units():
    assert active_units(torch.tensor([[0.0, 1.0], [0.0, -1.0]])).tolist() == [False, True]


def test_codes_for_a_distance():
    with pytest.raises(ValueError, match="z must be finite, and holds 6 values"):
        distance_to_prior(torch.full((3, 2), math.nan))
    with pytest.raises(ValueError, match=r"z must have shape \(N, L\) with N of 1 or more, not \(3,\)"):
        distance_to_prior(torch.zeros(3))


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
    with pytest.raises(ValueError, match=r"last dimension, and have the shapes \(4, 2\), \(4, 1\), \(4, 1\)"):
        log_normal(torch.zeros(4, 2), torch.zeros(4, 1), torch.zeros(4, 1))
    with pytest.raises(TypeError, match="z must be a tensor of floating-point numbers, not list"):
        log_normal([0.0], torch.zeros(4, 1), torch.zeros(4, 1))


@pytest.mark.parametrize("call", [reparameterize, kl_divergence, lambda *q: log_normal(torch.zeros(4, 2), *q)],
                         ids=["reparameterize", "kl_divergence", "log_normal"])  # fmt: skip
def test_a_mean_and_a_variance_that_do_not_belong_together(call):
    for shape in ((4, 1), (1, 2), (2,), (8, 2)):  # the first three would broadcast
        with pytest.raises(ValueError, match=r"mu and logvar must have the same shape, and have \(4, 2\), "):
            call(torch.zeros(4, 2), torch.zeros(shape))
    with pytest.raises(TypeError, match=r"logvar must be .* floating-point numbers, not a tensor of torch.int64"):
        call(torch.zeros(4, 2), torch.zeros(4, 2, dtype=torch.long))
    with pytest.raises(TypeError, match=r"mu must be .* floating-point numbers, not float"):
        call(0.0, torch.zeros(4, 2))


@pytest.mark.parametrize(("x", "logits", "error", "words"), [
    (IMAGES, torch.zeros(2, 784), ValueError, r"\(3, 784\) and \(2, 784\)"),
    (IMAGES[:1], torch.zeros(3, 784), ValueError, r"x \(B, 784\) and logits \(..., B, 784\) must fit"),
    (IMAGES, torch.zeros(784), ValueError, r"\(3, 784\) and \(784,\)"),
    (torch.zeros(0, 784), torch.zeros(0, 784), ValueError, r"\(0, 784\)"),
    (torch.tensor(0.5), torch.zeros(1, 1), ValueError, "must fit"),
    (255 * IMAGES, torch.zeros(3, 784), ValueError, "x must hold values from 0 to 1, and these run from 127.5 to"),
    (IMAGES + 0.51, torch.zeros(3, 784), ValueError, "x must hold values from 0 to 1, and these run from 1.01 to 1.01"),
    (math.nan * IMAGES, torch.zeros(3, 784), ValueError, "from 0 to 1, .* nan"),
    (IMAGES > 0, torch.zeros(3, 784), TypeError, "x must be .* not a tensor of torch.bool"),
    (IMAGES, [0.0], TypeError, "logits must be a tensor of floating-point numbers, not list"),
])  # fmt: skip
def test_pixels_and_their_logits(x, logits, error, words):
    with pytest.raises(error, match=words):
        log_bernoulli(x, logits)


def test_pixels_with_draws_in_front():
    assert log_bernoulli(IMAGES, torch.zeros(5, 2, 3, 784)).shape == (5, 2, 3)
    assert log_bernoulli(IMAGES[0], torch.zeros(784)).shape == ()


@pytest.mark.parametrize(("log_weights", "error", "words"), [
    (torch.zeros(0, 3), ValueError, r"log_weights must have shape \(K, B\) with K of 1 or more, not \(0, 3\)"),
    (torch.tensor(0.0), ValueError, r"not \(\)"),
    (torch.zeros(2, 3, dtype=torch.long), TypeError, "log_weights must be .* not a tensor of torch.int64"),
    ([[0.0]], TypeError, "log_weights must be .* not list"),
])  # fmt: skip
def test_importance_weights(log_weights, error, words):
    with pytest.raises(error, match=words):
        importance_weighted_bound(log_weights)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_is_not_hidden(value):
    bad = torch.zeros(3, 2).index_fill(0, torch.tensor([1]), value)
    good = torch.zeros(3, 2)
    x = torch.tensor([0.0, 1.0]).repeat(3, 392)
    results = {
        "decode": MODEL.decode(bad).mean(-1),
        "reparameterize, mu": reparameterize(bad, good).sum(-1),
        "kl_divergence, mu": kl_divergence(bad, good),
        "kl_divergence, logvar": kl_divergence(good, bad),
        "log_normal": log_normal(bad, good, good),
        "log_bernoulli": log_bernoulli(x, bad[:, :1].expand(3, 784)),
        "importance_weighted_bound": importance_weighted_bound(torch.stack([bad[:, 0], bad[:, 0]])),
    }
    for name, result in results.items():
        assert torch.isfinite(result).tolist() == [True, False, True], name


def test_what_plots_and_tables_are_given():
    with pytest.raises(ValueError, match="history must be the rows that fit returns"):
        plot_history([])
    with pytest.raises(ValueError, match=r"each with 'loss', not .*'epoch'"):
        plot_history([{"epoch": 1, "elbo": -1.0}], "loss")
    with pytest.raises(ValueError, match=r"as many images in each row, not \[2, 3\]"):
        plot_reconstructions(IMAGES[:2], IMAGES)
    with pytest.raises(ValueError, match=r"the grid holds 3 images, .* not index 3"):
        plot_posterior(GRID, 3, torch.zeros(2), torch.zeros(2))
    with pytest.raises(ValueError, match=r"each with mu and logvar \(2,\), .* \(1, 2\)"):
        plot_posterior(GRID, 0, torch.zeros(1, 2), torch.zeros(1, 2))
    with pytest.raises(ValueError, match="results must be one or more dicts with beta, kl, log_likelihood"):
        plot_rate_distortion([])
    with pytest.raises(ValueError, match=r"log_likelihood, not .*'beta'"):
        plot_rate_distortion([{"beta": 1.0, "kl": 2.0}])
    with pytest.raises(ValueError, match="kl must be finite"):
        plot_kl_per_dimension(torch.full((3,), math.nan), torch.ones(3, dtype=torch.bool))
    with pytest.raises(TypeError, match="kl must be a tensor"):
        plot_kl_per_dimension([1.0], torch.ones(1, dtype=torch.bool))
    for active in (torch.ones(2, dtype=torch.bool), torch.ones(3), [True] * 3):
        with pytest.raises(ValueError, match="active must be a bool for each of the 3 dimensions"):
            plot_kl_per_dimension(torch.ones(3), active)
    with pytest.raises(ValueError, match=r"every row must have 2 cells, as the header has, not \[2, 1\]"):
        show_table(["model", "ELBO"], [["ours", 1], ["first"]])
    for rounding in (1 + 5e-7, -5e-7):  # what a blend of two pictures may leave
        assert plot_images(torch.full((1, 784), rounding)).has_data()
    plt.close("all")
