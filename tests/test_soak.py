"""Over time: memory stays where it is, and what takes long can be stopped."""

import gc

import pytest
import torch

from vae_utils import FlowPrior, estimate_log_likelihood, fit, mlp_vae

IMAGES = torch.rand(40, 784, generator=torch.Generator().manual_seed(0))


def live_objects():
    """How many objects are alive, and how many bytes their tensors hold: what a leak makes grow, on every system."""
    gc.collect()
    objects = gc.get_objects()
    tensors = [item for item in objects if type(item) in (torch.Tensor, torch.nn.Parameter)]
    return len(objects), sum({t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors}.values())


@pytest.mark.parametrize("epochs", [30, pytest.param(200, marks=pytest.mark.slow)])
def test_training_for_many_epochs_keeps_nothing_but_its_history(tmp_path, epochs):
    counts, model = {}, mlp_vae(2, (16,), prior=FlowPrior(2, couplings=2))
    settings = {"binarized": True, "valid_images": IMAGES[:8], "checkpoint": tmp_path / "run", "progress": False}

    def count(row):
        if row["epoch"] in (5, epochs):
            counts[row["epoch"]] = live_objects()

    fit(model, IMAGES, epochs=epochs, batch_size=40, callback=count, **settings)
    (objects, tensors), (objects_later, tensors_later) = counts.values()
    # A row an epoch is a dictionary; other parts of the process, such as a browser's driver, make a few objects too.
    assert tensors_later <= tensors and objects_later - objects < 10 * epochs + 50


def test_an_estimate_can_be_interrupted():
    model, calls = mlp_vae(2, (16,)).train(), []

    def interrupt(*args):
        calls.append(1)
        if len(calls) == 25:
            raise KeyboardInterrupt

    model.decoder.register_forward_pre_hook(interrupt)
    with pytest.raises(KeyboardInterrupt):
        estimate_log_likelihood(model, IMAGES, num_samples=5000)
    assert model.training and torch.is_grad_enabled()
    assert torch.isfinite(estimate_log_likelihood(model, IMAGES, num_samples=2)).all()
