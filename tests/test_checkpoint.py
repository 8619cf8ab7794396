"""Checkpoints: whatever happens to a run or to its file, no finished epoch is lost and no number changes."""

import errno
import hashlib
import io
import os
import random
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import vae_utils
from vae_utils import FlowPrior, Gaussian, elbo, evaluate, fit, iwae, mlp_vae

IMAGES = torch.rand(10, 784, generator=torch.Generator().manual_seed(0))
SETTINGS = {"epochs": 3, "batch_size": 4, "binarized": True, "seed": 7, "progress": False}  # three batches an epoch


def small_model(seed=0, widths=(16,), **parts):
    torch.manual_seed(seed)
    return mlp_vae(2, widths, **{"prior": FlowPrior(2, couplings=2, hidden_dim=8), **parts})


def weights(model):
    """A checksum of all weights: two are equal only if the weights are, bit for bit."""
    return hashlib.sha256(b"".join(p.detach().numpy().tobytes() for p in model.parameters())).hexdigest()


def train(model, checkpoint=None, **changes):
    settings = {"images": IMAGES[:9], "valid_images": IMAGES[8:], **SETTINGS, **changes}
    return fit(model, checkpoint=checkpoint, **settings), weights(model)


@pytest.fixture(scope="module")
def whole():
    """History and weights of a run without a checkpoint, which nothing stopped."""
    return train(small_model())


@pytest.fixture
def path(tmp_path):
    """The checkpoint of a finished run, in a folder that was not there."""
    train(small_model(), path := tmp_path / "a" / "b" / "run")
    return path


def assert_refused(path, words, model=None, **changes):
    """The call raises, and neither the file nor the model is touched."""
    model, content = model or small_model(seed=1), path.read_bytes()
    start = weights(model)
    with pytest.raises(ValueError, match=words):
        train(model, path, **changes)
    assert path.read_bytes() == content and weights(model) == start


def test_a_run_cut_off_at_any_point_goes_on_to_the_same_end(tmp_path, whole, monkeypatch):
    """Every call that trains, evaluates, syncs or renames is the last one once; then a new model goes on."""
    countdown = [0]

    def cut_off(function):
        def counted(*args, **kwargs):
            countdown[0] -= 1
            if countdown[0] == 0:
                raise SystemExit
            return function(*args, **kwargs)

        return counted

    for owner, name in ((torch.optim.AdamW, "step"), (vae_utils, "evaluate"), (os, "fsync"), (os, "replace")):
        monkeypatch.setattr(owner, name, cut_off(getattr(owner, name)))
    for point in range(1, 21):  # 9 steps, 3 evaluations, and two calls for each of 4 checkpoints
        path, countdown[0] = tmp_path / str(point), point
        with pytest.raises(SystemExit):
            train(small_model(), path)
        model = small_model(seed=1 if path.exists() else 0)  # before the first checkpoint there is only the model
        assert train(model, path) == whole, point
    countdown[0] = 21
    assert train(small_model(), tmp_path / "last") == whole and countdown[0] == 1  # there are no other calls


def test_a_checkpoint_of_another_call_is_refused_by_name(path):
    others = {"epochs": 4, "batch_size": 3, "learning_rate": 1e-3, "seed": 8, "binarized": False}
    for name, value in others.items():
        words = rf"of another run: {name} was {SETTINGS.get(name, 0.002)} and is now {value}\."
        assert_refused(path, words, **{name: value})
    assert_refused(path, r"run: images was .*\(9, 784\).* and is now .*\(9, 784\)", images=IMAGES[:9].flip(0))
    assert_refused(path, r"valid_images was .*\(2, 784\).* and is now None", valid_images=None)
    with torch.autocast("cpu", torch.bfloat16):
        assert_refused(path, "autocast was False and is now True")


def weighted(model, x, *, generator, first=1.0, second=1.0, base=elbo):
    return base(model, x, beta=float(first * second), generator=generator)


@pytest.mark.parametrize(("objective", "other", "words"), [
    (elbo, partial(elbo, beta=2.0), "was elbo and is now elbo .*beta.*2.0"),
    (elbo, weighted, "was elbo and is now weighted"),
    (partial(iwae, num_samples=2), partial(iwae, num_samples=3), "was iwae .*2.* and is now iwae .*3"),
    (partial(weighted, first=2.0), partial(weighted, second=2.0), "was weighted .*first.* and is now .*second"),
    (partial(weighted, first=torch.tensor(2.0), base=elbo), partial(weighted, first=2.0, base=elbo), "was .*float32.*"),
], ids=["beta", "function", "samples", "name", "tensor"])  # fmt: skip
def test_a_checkpoint_goes_on_with_its_objective_and_refuses_another(tmp_path, objective, other, words):
    """And with numbers of numpy, which PyTorch would not read again."""
    settings = {"epochs": np.int64(2), "batch_size": np.int64(4), "learning_rate": np.float32(0.01)}
    first = train(small_model(), tmp_path / "run", objective=objective, **settings)
    assert len(first[0]) == 2 and train(small_model(1), tmp_path / "run", objective=objective, **settings) == first
    assert_refused(tmp_path / "run", f"another run: objective {words}", objective=other, **settings)
    kept = torch.load(tmp_path / "run", weights_only=True)["settings"]["objective"]
    assert " at 0x" not in kept  # where a function lies in memory differs from process to process


def test_a_checkpoint_of_another_model_is_refused_by_name(path):
    renamed = small_model()
    renamed.decoder = nn.Sequential(renamed.decoder)  # the same shapes under other names
    assert_refused(path, r"encoder\.0\.weight was \(16, 784\) and is now \(8, 784\)", small_model(widths=(8,)))
    assert_refused(path, r"decoder\.0\.weight was \(16, 2\) and is now nothing", renamed)
    assert_refused(path, "prior was FlowPrior and is now StandardNormal", small_model(prior=None))
    train(small_model(likelihood=Gaussian(0.5)), path.with_name("run of a Gaussian"))
    given = small_model(likelihood=Gaussian(0.25))  # a number that is given is a setting, no result of training
    assert_refused(path.with_name("run of a Gaussian"), r"likelihood\.log_sigma was ", given)


def test_a_file_that_is_damaged_cut_short_or_of_another_kind_is_refused_and_left_alone(path):
    sound, draw = path.read_bytes(), random.Random(0)
    contents = [b"", b"epoch,elbo\n", sound[:-32], sound + b"?"]  # without the checksum it is a file of torch.save
    for _ in range(100):
        place = draw.randrange(len(sound))
        contents += [sound[:place], sound[:place] + bytes([sound[place] ^ 1 << draw.randrange(8)]) + sound[place + 1 :]]
    for content in contents:
        path.write_bytes(content)
        assert_refused(path, "damaged")


def test_no_code_in_a_file_is_run(tmp_path, monkeypatch):
    """A file with a checksum that is right, and with a call of os.mkdir in it."""
    monkeypatch.chdir(tmp_path)
    bomb, file = type("Bomb", (), {"__reduce__": lambda self: (os.mkdir, ("exploded",))})(), io.BytesIO()
    torch.save({"settings": bomb}, file)
    Path("run").write_bytes(file.getvalue() + hashlib.sha256(file.getvalue()).digest())
    with pytest.raises(Exception, match=r"[Ww]eights.only"):
        train(small_model(), "run")
    assert not Path("exploded").exists()


def test_a_full_disk_leaves_the_last_checkpoint_and_a_model_that_can_be_used(tmp_path, whole, monkeypatch):
    path, model, synced = tmp_path / "run", small_model(), []

    def full(descriptor):
        synced.append(descriptor)
        if len(synced) == 3:  # at the start, after one epoch, after two
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match=r"checkpoint .*No space left on device.*run") as caught:
        train(model, path)
    assert caught.value.errno == errno.ENOSPC and caught.value.history == whole[0][:2]
    assert [p.name for p in tmp_path.iterdir()] == ["run"]
    assert evaluate(model, IMAGES[8:], seed=7)["elbo"] == whole[0][1]["valid_elbo"]  # the model after two epochs
    assert train(model, path) == whole


@pytest.mark.parametrize("name", [None, "run"])
def test_ctrl_c_is_raised_with_the_finished_rows_and_the_same_call_goes_on(tmp_path, whole, name):
    path, model, seen = name and tmp_path / name, small_model(), []

    def interrupt(*args):
        seen.append(weights(model))
        if len(seen) in (1, 7):  # at once; then three batches, the held-out images, and in the second batch
            raise KeyboardInterrupt

    model.encoder.register_forward_pre_hook(interrupt)
    for finished in (0, 1):
        with pytest.raises(KeyboardInterrupt, match=f"{finished} of 3 epochs") as caught:
            train(model, path)
        assert caught.value.history == whole[0][:finished] and weights(model) == seen[-1]
        assert caught.value.__suppress_context__  # no frames of what was interrupted
    assert len(set(seen)) == 5 and evaluate(model, IMAGES[8:])["elbo"] < 0  # four steps
    assert path is None or train(model, path) == whole
