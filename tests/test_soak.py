"""Over time: memory stays where it is, and what takes long can be stopped."""

import gc

import pytest
import torch

from vae_utils import estimate_log_likelihood, fit, mlp_vae

IMAGES = torch.rand(40, 784, generator=torch.Generator().manual_seed(0))


def live_objects():
    """How many objects are alive, and how many bytes their tensors hold: what a leak makes grow, on every system."""
    gc.collect()
    objects = gc.get_objects()
    tensors = [item for item in objects if type(item) in (torch.Tensor, torch.nn.Parameter)]
    return len(objects), sum({t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors}.values())


@pytest.mark.parametrize("epochs", [30, pytest.param(200, marks=pytest.mark.slow)])
def test_training_for_many_epochs_keeps_nothing_but_its_history(tmp_path, epochs):
    torch.manual_seed(0)
    model, batches, counts = mlp_vae(2, (16,)), [], []

    def count(*args):
        batches.append(1)
        if len(batches) in (10, 2 * epochs - 1):  # of two calls an epoch: training, and the held-out images
            counts.append(live_objects())

    model.encoder.register_forward_pre_hook(count)
    settings = {"binarized": True, "valid_images": IMAGES[:8], "checkpoint": tmp_path / "run", "progress": False}
    fit(model, IMAGES, epochs=epochs, batch_size=40, **settings)
    (objects, tensors), (objects_later, tensors_later) = counts
    # A row an epoch is a dictionary; other parts of the process, such as a browser's driver, make a few objects too.
    assert tensors_later <= tensors and objects_later - objects < 10 * epochs + 50


def resident_megabytes():
    import resource  # not on Windows, and the test that calls this says so

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024  # kilobytes on Linux


@pytest.mark.slow
def test_200_epochs_take_no_more_memory_than_20(tmp_path):
    """The peak of the process, PyTorch's own allocations included, rises by less than 20 MB in the last 180 epochs."""
    pytest.importorskip("resource")
    images = torch.rand(2000, 784, generator=torch.Generator().manual_seed(0))
    peaks = []
    model = mlp_vae(2, (64,))
    model.decoder.register_forward_hook(lambda *args: peaks.append(resident_megabytes()))
    fit(model, images, epochs=200, batch_size=200, valid_images=images[:500], progress=False)
    a_tenth = len(peaks) // 10
    assert peaks[-1] - peaks[a_tenth] < 20, (peaks[0], peaks[a_tenth], peaks[-1])


@pytest.mark.slow
def test_5000_samples_take_no_more_memory_than_100():
    pytest.importorskip("resource")
    model, peaks = mlp_vae(2, (16,)), []
    model.decoder.register_forward_hook(lambda *args: peaks.append(resident_megabytes()))
    bounds = estimate_log_likelihood(model, IMAGES, num_samples=5000)
    assert bounds.shape == (40,) and peaks[-1] - peaks[100] < 20


def test_an_estimate_can_be_interrupted_and_shows_its_progress(capsys):
    model, calls = mlp_vae(2, (16,)).train(), []

    def interrupt(*args):
        calls.append(1)
        if len(calls) == 25:
            raise KeyboardInterrupt

    hook = model.decoder.register_forward_pre_hook(interrupt)
    with pytest.raises(KeyboardInterrupt):
        estimate_log_likelihood(model, IMAGES, num_samples=5000, progress=True)
    assert "/5000" in capsys.readouterr().err
    hook.remove()
    assert model.training and torch.is_grad_enabled()
    assert torch.isfinite(estimate_log_likelihood(model, IMAGES, num_samples=2)).all()
