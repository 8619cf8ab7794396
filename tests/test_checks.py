"""Bad input, all of it: each border names the argument that is wrong and says what came.

Files that are damaged are in test_data.py and test_fuzz.py, checkpoints in test_checkpoint.py.
"""

import math
from functools import partial

import numpy as np
import pytest
import torch
from torch import nn

import vae_utils as vae

MODEL = vae.mlp_vae(2, (8,))
IMAGES = torch.full((3, 784), 0.5)

# What takes a model, images and settings, with the settings that it cannot do without.
FIT = partial(vae.fit, epochs=1, progress=False)
ESTIMATE = partial(vae.estimate_log_likelihood, num_samples=1)
GRID = partial(vae.posterior_on_grid, n=3)
TAKE_A_MODEL = dict(fit=FIT, evaluate=vae.evaluate, encode=vae.encode_dataset, estimate=ESTIMATE, grid=GRID)
TAKE_A_DTYPE = TAKE_A_MODEL | {"valid_images": lambda model, images: FIT(model, IMAGES, valid_images=images)}
TAKE_IMAGES = TAKE_A_DTYPE | {"binarize": lambda model, images: vae.binarize(images)}

BAD_IMAGES = {
    "no tensor": (np.zeros((2, 784)), TypeError, "ndarray"),
    "bytes": (torch.zeros(2, 784, dtype=torch.uint8), TypeError, "uint8"),
    "not flat": (torch.zeros(2, 28, 28), ValueError, r"shape .*\(2, 28, 28\)"),
    "one image": (torch.zeros(784), ValueError, r"shape .*\(784,\)"),
    "too narrow": (torch.zeros(2, 783), ValueError, r"shape .*\(2, 783\)"),
    "none": (torch.zeros(0, 784), ValueError, r"shape .*\(0, 784\)"),
    "up to 255": (torch.full((2, 784), 255.0), ValueError, "from 0 to 1.* 255"),
    "below 0": (torch.full((2, 784), -0.5), ValueError, "from 0 to 1.* -0.5"),
    "nan": (torch.full((2, 784), math.nan), ValueError, "from 0 to 1.* nan"),
    "infinite": (torch.full((2, 784), math.inf), ValueError, "from 0 to 1.* inf"),
}


@pytest.mark.parametrize("name", TAKE_IMAGES)
@pytest.mark.parametrize(("images", "error", "words"), BAD_IMAGES.values(), ids=BAD_IMAGES)
def test_images(name, images, error, words):
    argument = name if name == "valid_images" else "images"
    with pytest.raises(error, match=f"^{argument} must .*{words}"):
        TAKE_IMAGES[name](MODEL, images)


@pytest.mark.parametrize("value", [1.001, -0.001, math.nan, math.inf])
def test_one_bad_pixel_is_enough(value):
    images = torch.tensor([0.0, 1.0]).repeat(3, 392)
    assert torch.equal(vae.binarize(images), images)  # both ends of the range are allowed
    images[2, 783] = value
    with pytest.raises(ValueError, match="from 0 to 1"):
        vae.binarize(images)


@pytest.mark.parametrize("name", TAKE_A_DTYPE)
def test_images_of_another_dtype_than_the_model(name):
    with pytest.raises(TypeError, match=r"images must .*float32, not torch.float64"):
        TAKE_A_DTYPE[name](MODEL, IMAGES.double())


@pytest.mark.parametrize("function", TAKE_A_MODEL.values(), ids=TAKE_A_MODEL)
def test_a_model_that_is_no_vae(function):
    with pytest.raises(TypeError, match="model must be a VAE, not Linear"):
        function(nn.Linear(784, 2), IMAGES)


@pytest.mark.parametrize(("function", "name", "least"), [
    (FIT, "epochs", 1), (FIT, "batch_size", 1), (FIT, "num_samples", 1), (FIT, "seed", 0),
    (vae.evaluate, "batch_size", 1), (vae.evaluate, "seed", 0), (vae.encode_dataset, "batch_size", 1),
    (ESTIMATE, "num_samples", 1), (ESTIMATE, "batch_size", 1), (ESTIMATE, "seed", 0), (GRID, "n", 2),
])  # fmt: skip
def test_whole_numbers(function, name, least):
    for number in (least - 1, -7):
        with pytest.raises(ValueError, match=f"^{name} must be {least} or more.* not {number}$"):
            function(MODEL, IMAGES, **{name: number})
    for number in (2.0, "2", True, None, torch.tensor(2)):
        with pytest.raises(TypeError, match=f"^{name} must be a whole number, not "):
            function(MODEL, IMAGES, **{name: number})


@pytest.mark.parametrize(("function", "name"), [(FIT, "learning_rate"), (FIT, "beta"), (GRID, "limit")])
def test_real_numbers(function, name):
    for number in (-0.1, math.nan, math.inf, -math.inf):
        with pytest.raises(ValueError, match=f"^{name} must be 0 or more.* not {number}$"):
            function(MODEL, IMAGES, **{name: number})
    for number in ("1", None, 1j, True):
        with pytest.raises(TypeError, match=f"^{name} must be a number, not "):
            function(MODEL, IMAGES, **{name: number})


@pytest.mark.parametrize("wrong", [
    {"epochs": 0}, {"beta": -1.0}, {"beta": 2.0, "num_samples": 2}, {"valid_images": IMAGES.double()},
], ids=str)  # fmt: skip
def test_fit_refuses_before_it_writes_or_learns(tmp_path, wrong):
    before = torch.cat([parameter.flatten() for parameter in MODEL.parameters()])
    with pytest.raises((ValueError, TypeError), match=next(iter(wrong))):
        FIT(MODEL, IMAGES, checkpoint=tmp_path / "run", **wrong)
    assert not list(tmp_path.iterdir())
    assert torch.equal(torch.cat([parameter.flatten() for parameter in MODEL.parameters()]), before)


def test_numbers_of_numpy_are_numbers(tmp_path):
    """The second call goes on from the first one's checkpoint, which therefore has to be readable."""
    two, model = np.int64(2), vae.mlp_vae(2, (8,))
    settings = {"epochs": two, "batch_size": two, "num_samples": two, "seed": two, "learning_rate": np.float32(0.01)}
    first, second = (FIT(model, IMAGES, checkpoint=tmp_path / "run", **settings) for _ in range(2))
    assert len(first) == 2 and first == second
    assert FIT(model, IMAGES, beta=np.float64(2))
    assert vae.evaluate(model, IMAGES, batch_size=two, seed=two) == vae.evaluate(model, IMAGES, batch_size=2, seed=2)
    assert ESTIMATE(model, IMAGES, num_samples=two, batch_size=two, seed=two).shape == (3,)
    assert GRID(model, IMAGES, n=two, limit=np.float32(3)).points.tolist() == [-3, 3]


@pytest.mark.parametrize(("points", "labels", "error", "words"), [
    (torch.zeros(3, 2), [0, 1, 2], TypeError, "labels must .*list"),
    (torch.zeros(3, 2), torch.zeros(3), TypeError, "labels must .*float32"),
    (torch.zeros(3, 2), torch.tensor([0, 1]), ValueError, r"labels must .*\(3,\).* not \(2,\)"),
    (torch.zeros(3, 2), torch.tensor([0, 1, 10]), ValueError, "labels must .*from 0 to 9.* 10"),
    (torch.zeros(3, 2), torch.tensor([0, 1, -1]), ValueError, "labels must .*from 0 to 9.* -1"),
    (torch.zeros(3, 3), torch.tensor([0, 1, 2]), ValueError, r"\(N, 2\).* \(3, 3\)"),
    (torch.zeros(2), torch.tensor([0, 1]), ValueError, r"\(N, 2\).* \(2,\)"),
    (torch.full((3, 2), math.nan), torch.tensor([0, 1, 2]), ValueError, "finite.*nan"),
])  # fmt: skip
def test_points_and_labels_of_a_map(points, labels, error, words):
    with pytest.raises(error, match=f"(?s){words}"):
        vae.plot_latent_space(points, labels)


@pytest.mark.parametrize(("call", "words"), [
    (lambda: vae.plot_manifold(vae.mlp_vae(3, (8,))), r"2 latent dimensions.* 3"),
    (lambda: GRID(vae.mlp_vae(3, (8,)), IMAGES), r"2 latent dimensions.* 3"),
    (lambda: vae.plot_rows({"a": IMAGES[:2], "b": IMAGES}), r"rows must .*\[2, 3\]"),
    (lambda: vae.load_mnist("data", variant="EMNIST"), r"variant must .*MNIST, FashionMNIST, KMNIST, not 'EMNIST'"),
], ids=["plot_manifold", "posterior_on_grid", "plot_rows", "load_mnist"])  # fmt: skip
def test_what_does_not_fit(call, words):
    with pytest.raises(ValueError, match=words):
        call()


@pytest.mark.parametrize("function", [vae.reparameterize, vae.kl_divergence, lambda *q: vae.log_normal(q[0], *q)])
@pytest.mark.parametrize("shape", [(4, 1), (1, 2), (2,), (1, 4, 2), (8, 2)])  # all but the last would broadcast
def test_a_mean_and_a_variance_that_do_not_belong_together(function, shape):
    with pytest.raises(ValueError, match=r"mu and logvar must .*\(4, 2\) and ") as caught:
        function(torch.zeros(4, 2), torch.zeros(shape))
    assert str(shape) in str(caught.value)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_is_not_hidden(value):
    good, bad = torch.zeros(3, 2), torch.tensor([0.0, value, 0.0])[:, None].expand(3, 2)
    results = {
        "decode": MODEL.decode(bad).mean(-1),
        "reparameterize, mu": vae.reparameterize(bad, good).sum(-1),
        "kl_divergence, mu": vae.kl_divergence(bad, good),
        "kl_divergence, logvar": vae.kl_divergence(good, bad),
        "log_normal, z": vae.log_normal(bad, good, good),
        "log_normal, mu": vae.log_normal(good, bad, good),
        "log_bernoulli": vae.log_bernoulli(torch.tensor([0.0, 1.0]).repeat(3, 392), bad[:, :1].expand(3, 784)),
        "importance_weighted_bound": vae.importance_weighted_bound(torch.stack([bad[:, 0], bad[:, 0]])),
    }
    for name, result in results.items():
        assert torch.isfinite(result).tolist() == [True, False, True], name
    assert not math.isfinite(vae.sliced_wasserstein_to_prior(bad))
