"""Bad input: what would give a wrong number without an error is refused, by the name of the argument and what came.

Files are in test_data.py, checkpoints in test_checkpoint.py, a reader's own parts in test_parts.py. Where PyTorch's own
error can be understood, the module says nothing, and nothing is tested.
"""

import math
import re
from functools import partial

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import vae_utils as vae

MODEL = vae.mlp_vae(2, (8,))
IMAGES = torch.full((3, 784), 0.5)

# What takes a model and images.
FIT = partial(vae.fit, epochs=1, progress=False)
ESTIMATE = partial(vae.estimate_log_likelihood, num_samples=1)
TAKE_IMAGES = {
    "fit": FIT,
    "valid_images": lambda model, images: FIT(model, IMAGES, valid_images=images),
    "evaluate": vae.evaluate,
    "an objective": partial(vae.evaluate, objective=partial(vae.iwae, num_samples=2)),
    "encode_dataset": vae.encode_dataset,
    "estimate_log_likelihood": ESTIMATE,
    "posterior_on_grid": partial(vae.posterior_on_grid, n=3),
}
takes_images = pytest.mark.parametrize("name", TAKE_IMAGES)


GREY = np.arange(3 * 784).reshape(3, 784).astype(np.uint8)
NO_TENSORS = {
    "DataLoader": DataLoader(TensorDataset(torch.rand(3, 1, 28, 28), torch.arange(3)), batch_size=2),
    "ndarray": GREY.reshape(3, 28, 28) / 255,
}


@takes_images
@pytest.mark.parametrize("kind", NO_TENSORS)
def test_what_is_no_tensor_is_refused_and_images_from_makes_one_of_it(name, kind):
    argument = name if name == "valid_images" else "images"
    with pytest.raises(TypeError, match=f"^{argument} must be a tensor .*images_from.*, not {kind}"):
        TAKE_IMAGES[name](MODEL, NO_TENSORS[kind])
    TAKE_IMAGES[name](MODEL, vae.images_from(NO_TENSORS[kind]))


BINARY = GREY % 2
OTHER_DTYPES = {
    "bytes": (torch.from_numpy(GREY), GREY / 255), "double": (torch.from_numpy(GREY / 255), GREY / 255),
    "0 and 1": (torch.from_numpy(BINARY), BINARY), "bool": (torch.from_numpy(BINARY == 1), BINARY),
}  # fmt: skip


@takes_images
@pytest.mark.parametrize(("images", "right"), OTHER_DTYPES.values(), ids=OTHER_DTYPES)
def test_the_error_for_another_dtype_holds_the_line_that_makes_it_right(name, images, right):
    argument = name if name == "valid_images" else "images"
    with pytest.raises(TypeError, match=f"^{argument} must .*{images.dtype}; this makes .*: ") as caught:
        TAKE_IMAGES[name](MODEL, images)
    line = re.search(": (.*)$", str(caught.value))[1]
    made = eval(line, {"torch": torch, argument: images})
    torch.testing.assert_close(made, torch.from_numpy(right).float())
    TAKE_IMAGES[name](MODEL, made)


@takes_images
@pytest.mark.parametrize(("images", "words"), [
    (torch.zeros(2, 28, 28), r"\(2, 28, 28\)"),
    (torch.zeros(784), r"\(784,\)"),
    (torch.zeros(0, 784), r"\(0, 784\)"),
    (torch.full((2, 784), 255.0), "from 0 to 1.* 255"),
])  # fmt: skip
def test_images_that_are_not_flat_or_not_there_or_out_of_range(name, images, words):
    argument = name if name == "valid_images" else "images"
    with pytest.raises(ValueError, match=f"^{argument} must .*{words}"):
        TAKE_IMAGES[name](MODEL, images)


@takes_images
@pytest.mark.parametrize("model", [MODEL, vae.conv_vae(2, channels=2, hidden_dim=4)], ids=["dense", "convolutions"])
@pytest.mark.parametrize(
    "kind", [torch.from_numpy, np.asarray, lambda array: torch.from_numpy(array / np.float32(255))]
)
def test_a_table_whose_first_column_is_the_label(name, model, kind):
    """Neither an array nor whole numbers bring a hint by which the label would become a pixel."""
    argument = name if name == "valid_images" else "images"
    with pytest.raises(ValueError, match=f"the model takes 784 .* 785 of {argument}"):
        TAKE_IMAGES[name](model, kind(np.pad(GREY, ((0, 0), (1, 0)))))


def test_fit_asks_about_pixels_that_were_divided_twice():
    twice = torch.from_numpy(GREY / np.float32(255**2))
    for wrong in ({"images": twice}, {"images": IMAGES, "valid_images": twice}):
        with pytest.raises(ValueError, match=f"^no pixel of {[*wrong][-1]} is above 0.0039.* twice"):
            FIT(MODEL, **wrong)
    FIT(MODEL, torch.zeros(3, 784), valid_images=torch.zeros(1, 784))
    FIT(vae.mlp_vae(2, (8,), likelihood=vae.Gaussian()), twice)
    for name in TAKE_IMAGES.keys() - {"fit", "valid_images"}:
        TAKE_IMAGES[name](MODEL, twice[:1])  # an image by itself may be nearly blank


@pytest.mark.parametrize("rate", [-1, 0, math.nan, math.inf])
def test_a_learning_rate_is_positive_and_finite(rate):
    with pytest.raises(ValueError, match=f"learning_rate must be positive and finite, not {rate}"):
        FIT(MODEL, IMAGES, learning_rate=rate)


@takes_images
def test_a_model_that_is_no_vae(name):
    with pytest.raises(TypeError, match="model must be a VAE, not Linear"):
        TAKE_IMAGES[name](nn.Linear(784, 2), IMAGES)


@pytest.mark.parametrize(("function", "name"), [
    (FIT, "epochs"), (FIT, "batch_size"), (vae.evaluate, "batch_size"), (vae.encode_dataset, "batch_size"),
    (ESTIMATE, "num_samples"), (ESTIMATE, "batch_size"),
    (vae.iwae, "num_samples"),
])  # fmt: skip
def test_counts_are_whole_numbers_from_1(function, name):
    for number in (0, -7):
        with pytest.raises(ValueError, match=f"^{name} must be 1 or more, not {number}"):
            function(MODEL, IMAGES, **{name: number})
    for number in (2.0, "2", None):
        with pytest.raises(TypeError):
            function(MODEL, IMAGES, **{name: number})
    for number in (np.int64(2), torch.tensor(2)):
        assert len(function(MODEL, IMAGES, **{name: number})) > 0


def test_fit_refuses_before_it_writes(tmp_path):
    for wrong in ({"epochs": 0}, {"batch_size": 0}, {"valid_images": IMAGES.double()}):
        with pytest.raises((ValueError, TypeError), match=next(iter(wrong))):
            FIT(MODEL, IMAGES, checkpoint=tmp_path / "run", **wrong)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("call", "words"), [
    (lambda: vae.plot_codes(torch.zeros(3, 2), torch.tensor([0, 1])), r"points .*labels .*not .*3, 2"),
    (lambda: vae.plot_codes(torch.zeros(2, 2), torch.tensor([0, 10])), r"labels .*from 0 to 9.* 10"),
    (lambda: vae.plot_codes(torch.zeros(2, 2), torch.tensor([0, -1])), r"labels .*from 0 to 9.* -1"),
    (lambda: vae.plot_manifold(vae.mlp_vae(3, (8,))), r"2 latent dimensions.* 3"),
    (lambda: vae.posterior_on_grid(vae.mlp_vae(3, (8,)), IMAGES), r"2 latent dimensions.* 3"),
    (lambda: vae.conv_vae(image_side=30), "image_side must be a multiple of 4, not 30"),
    (lambda: vae.load_mnist("data", variant="EMNIST"), r"variant must .*MNIST, FashionMNIST, KMNIST, not 'EMNIST'"),
], ids=["number", "label", "negative", "plot_manifold", "posterior_on_grid", "conv_vae", "load_mnist"])  # fmt: skip
def test_what_does_not_fit(call, words):
    with pytest.raises(ValueError, match=words):
        call()


@pytest.mark.parametrize("function", [vae.reparameterize, vae.kl_divergence, lambda *q: vae.log_normal(q[0], *q)])
@pytest.mark.parametrize("shape", [(4, 1), (1, 2), (2,), (1, 4, 2), (8, 2)])  # all but the last would broadcast
def test_a_mean_and_a_variance_that_do_not_belong_together(function, shape):
    with pytest.raises(ValueError, match=rf"mu and logvar must .*\(4, 2\) and {re.escape(str(shape))}"):
        function(torch.zeros(4, 2), torch.zeros(shape))
