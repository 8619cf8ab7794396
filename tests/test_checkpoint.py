"""Checkpoints and saved models: whatever happens to a run or to its file, no work is lost and no number changes."""

import errno
import io
import os
import pickle
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

import vae_utils
from vae_utils import VAE, Decoder, Encoder, conv_vae, evaluate, fit, load_vae, mlp_vae, save_vae

IMAGES = torch.rand(10, 784, generator=torch.Generator().manual_seed(0))
SETTINGS = {"epochs": 3, "batch_size": 4, "binarized": True, "seed": 7, "progress": False}  # three batches an epoch


def small_model(seed=0):
    torch.manual_seed(seed)
    return mlp_vae(2, (16,))


def train(model, checkpoint=None, **changes):
    return fit(model, IMAGES[:9], valid_images=IMAGES[8:], checkpoint=checkpoint, **(SETTINGS | changes))


def weights(model):
    return torch.cat([p.detach().flatten() for p in model.parameters()])


@pytest.fixture(scope="module")
def whole():
    """History and weights of a run without a checkpoint, which nothing stopped."""
    model = small_model()
    return train(model), weights(model)


@pytest.fixture
def every_batch(monkeypatch):
    """A checkpoint after every batch, as if each took a minute."""
    monkeypatch.setattr(vae_utils, "CHECKPOINT_SECONDS", -1)


def test_a_checkpoint_changes_nothing(tmp_path, whole, every_batch):
    model = small_model()
    assert train(model, tmp_path / "run") == whole[0] and torch.equal(weights(model), whole[1])
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_a_finished_run_returns_at_once(tmp_path, whole):
    path = tmp_path / "run"
    train(small_model(), path)
    before = path.read_bytes()
    model = small_model(seed=1)
    model.encoder.register_forward_hook(lambda *args: pytest.fail("it was trained again"))
    assert train(model, str(path)) == whole[0] and torch.equal(weights(model), whole[1])
    assert path.read_bytes() == before


class PowerCut(BaseException):
    pass


def test_a_run_cut_off_at_any_point_goes_on_to_the_same_end(tmp_path, whole, every_batch, monkeypatch):
    """Every call that trains, writes or renames is the last one once; then a new model goes on from the file."""
    countdown = [0]

    def last_call(function):
        def call(*args, **kwargs):
            countdown[0] -= 1
            if countdown[0] == 0:
                raise PowerCut
            return function(*args, **kwargs)

        return call

    for owner, name in ((vae_utils, "_training_step"), (vae_utils, "evaluate"), (os, "fsync"), (os, "replace")):
        monkeypatch.setattr(owner, name, last_call(getattr(owner, name)))
    points = 9 + 3 + 2 * 10  # training steps, evaluations, and two calls for each of the checkpoints
    for point in range(1, points + 1):
        path = tmp_path / str(point)
        countdown[0] = point
        with pytest.raises(PowerCut):
            train(small_model(), path)
        model = small_model(seed=0 if not path.exists() else 1)  # before the first checkpoint there is only the model
        assert train(model, path) == whole[0] and torch.equal(weights(model), whole[1]), point
    countdown[0] = points + 1
    train(small_model(), tmp_path / "last")
    assert countdown[0] == 1  # so these were all the calls that there are


def test_checkpoints_within_an_epoch_are_a_minute_apart(tmp_path, monkeypatch):
    clock, written = [0], []
    monkeypatch.setattr(vae_utils.time, "monotonic", lambda: clock[0])
    monkeypatch.setattr(os, "fsync", lambda descriptor: written.append(len(seen)))
    model, seen = small_model(), []

    def half_a_minute(*args):
        seen.append(1)
        clock[0] += 29

    model.encoder.register_forward_pre_hook(half_a_minute)
    fit(model, IMAGES, epochs=2, batch_size=2, checkpoint=tmp_path / "run", progress=False)
    assert written == [0, 3, 5, 8, 10]  # at the start, after 87 s and at the end of each epoch


OTHERS = {
    "epochs": {"epochs": 4},
    "batch_size": {"batch_size": 3},
    "learning_rate": {"learning_rate": 1e-3},
    "beta": {"beta": 2.0},
    "num_samples": {"num_samples": 2},
    "binarized": {"binarized": False},
    "bfloat16": {"bfloat16": True},
    "seed": {"seed": 8},
}


@pytest.mark.parametrize("name", OTHERS)
def test_a_checkpoint_of_other_settings_is_refused_by_name(tmp_path, name):
    path = tmp_path / "run"
    train(small_model(), path)
    before, model = path.read_bytes(), small_model(seed=1)
    start = weights(model)
    with pytest.raises(
        ValueError, match=rf"run is the checkpoint.*settings: {name} was \S+ and is now [^;]*\. Nothing"
    ):
        train(model, path, **OTHERS[name])
    assert path.read_bytes() == before and torch.equal(weights(model), start)


def test_a_checkpoint_of_other_images_or_another_model_is_refused_by_name(tmp_path):
    path = tmp_path / "run"
    train(small_model(), path)
    before = path.read_bytes()
    flipped = IMAGES[:9].flip(0)
    with pytest.raises(ValueError, match=r"settings: images was .*\(9, 784\), checksum \w+ and is now"):
        fit(small_model(), flipped, valid_images=IMAGES[8:], checkpoint=path, **SETTINGS)
    with pytest.raises(ValueError, match=r"settings: valid_images was .*\(2, 784\).* and is now nothing"):
        fit(small_model(), IMAGES[:9], checkpoint=path, **SETTINGS)
    with pytest.raises(ValueError, match=r"encoder.hidden.0.weight was .*\(16, 784\) and is now .*\(8, 784\); .* more"):
        train(mlp_vae(2, (8,)), path)
    with pytest.raises(ValueError, match=r"encoder.mu.weight was torch.float32 \(2, 16\) and is now"):
        train(mlp_vae(3, (16,)), path)
    assert path.read_bytes() == before


def test_what_differs_is_told_of_three_things_and_of_the_rest_how_many(tmp_path):
    path = tmp_path / "run"
    train(small_model(), path)
    three, five = {"epochs": 4, "beta": 2.0, "seed": 8}, {"epochs": 4, "batch_size": 5, "beta": 2.0, "seed": 8}
    for changes, end in (
        (three, "seed was 7 and is now 8. Nothing"),
        (five, "beta was 1.0 and is now 2.0; and 1 more. "),
    ):
        with pytest.raises(ValueError, match=f": epochs was 3 and is now 4; .*{end}"):
            train(small_model(), path, **changes)
    with pytest.raises(ValueError, match=r"valid_images was torch.float32 .* and is now nothing\."):
        fit(small_model(), IMAGES[:9], checkpoint=path, **SETTINGS)
    fit(small_model(), IMAGES[:9], checkpoint=tmp_path / "without", **SETTINGS)
    with pytest.raises(ValueError, match=r"valid_images was nothing and is now torch.float32"):
        train(small_model(), tmp_path / "without")


def test_a_damaged_or_truncated_file_is_refused_and_left_alone(tmp_path):
    path, other = tmp_path / "run", tmp_path / "damaged"
    train(small_model(), path)
    sound = path.read_bytes()
    draw = random.Random(0)
    for attempt in range(200):
        place = draw.randrange(len(sound))
        damaged = bytearray(sound)
        damaged[place] ^= 1 << draw.randrange(8)
        other.write_bytes(damaged if attempt % 2 else sound[:place])
        before = other.read_bytes()
        with pytest.raises(
            ValueError, match=r"damaged is no checkpoint of fit that can be read: .*Nothing was changed"
        ):
            train(small_model(), other)
        assert other.read_bytes() == before


@pytest.mark.parametrize("write", [
    lambda path: path.write_bytes(b""),
    lambda path: path.write_text("epoch,elbo\n"),
    lambda path: torch.save({"model": {}}, path),
    lambda path: save_vae(small_model(), path),
], ids=["empty", "text", "a file of torch.save", "a trained model"])  # fmt: skip
def test_a_file_of_another_kind_is_refused_and_left_alone(tmp_path, write):
    path = tmp_path / "something"
    write(path)
    before = path.read_bytes()
    with pytest.raises(ValueError, match="something is no checkpoint of fit that can be read"):
        train(small_model(), path)
    assert path.read_bytes() == before


def test_a_place_that_cannot_be_written_shows_before_any_training(tmp_path):
    model = small_model()
    start = weights(model)
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OSError, match=r"checkpoint of fit could not be written .*another place.*run"):
        train(model, tmp_path / "file" / "run")
    assert torch.equal(weights(model), start)


def test_folders_on_the_way_to_a_checkpoint_are_made(tmp_path):
    train(small_model(), tmp_path / "a" / "b" / "run")
    assert (tmp_path / "a" / "b" / "run").is_file()


def test_a_full_disk_leaves_the_last_checkpoint_and_a_model_that_can_be_used(tmp_path, whole, monkeypatch):
    path, model, calls = tmp_path / "run", small_model(), []
    kept = []

    def full(descriptor):
        calls.append(1)
        if len(calls) == 3:  # at the start, after one epoch, after two
            kept.append(path.read_bytes())
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match=r"could not be written \(No space left on device\): make room") as caught:
        train(model, path)
    assert ". What was there before is still there, and the model in memory can be used:" in str(caught.value)
    assert caught.value.errno == errno.ENOSPC and caught.value.history == whole[0][:2]
    assert path.read_bytes() == kept[0] and [p.name for p in tmp_path.iterdir()] == ["run"]
    assert evaluate(model, IMAGES[8:], seed=7)["elbo"] == whole[0][1]["valid_elbo"]  # the model after two epochs
    assert train(model, path) == whole[0] and torch.equal(weights(model), whole[1])


@pytest.mark.parametrize("name", [None, "run"])
def test_ctrl_c_leaves_a_model_and_the_finished_rows(tmp_path, whole, name):
    path, model, seen = name and tmp_path / name, small_model(), []

    def interrupt(*args):
        seen.append(1)
        if len(seen) == 6:  # three batches and an evaluation of the held-out images, then in the second batch
            raise KeyboardInterrupt

    hook = model.encoder.register_forward_pre_hook(interrupt)
    assert train(model, path) == whole[0][:1]
    hook.remove()
    assert evaluate(model, IMAGES[8:])["elbo"] < 0 and not torch.equal(weights(model), whole[1])
    if path:  # the same call with the same model goes on
        assert train(model, path) == whole[0] and torch.equal(weights(model), whole[1])


class Bomb:
    def __reduce__(self):
        return (os.mkdir, ("exploded",))


@pytest.mark.parametrize("read", [load_vae, lambda path: train(small_model(), path)], ids=["load_vae", "fit"])
def test_no_code_in_a_file_is_run(tmp_path, monkeypatch, read):
    """A file with a checksum that is right, and with a call of os.mkdir in it."""
    monkeypatch.chdir(tmp_path)
    vae_utils._write_file("run", "trained model", {"architecture": Bomb()})
    with pytest.raises(pickle.UnpicklingError, match=r"[Ww]eights.only"):
        read("run")
    assert not Path("exploded").exists()


MODELS = {
    "dense": lambda: mlp_vae(3, (20, 10)),
    "default": mlp_vae,
    "double": lambda: mlp_vae(2, (8,)).double(),
    "patches": lambda: conv_vae(5, channels=4, hidden_dim=8, depth=3),
}


@pytest.mark.parametrize("make", MODELS.values(), ids=MODELS.keys())
def test_a_saved_model_comes_back_bit_for_bit(tmp_path, make):
    model = make()
    save_vae(model, tmp_path / "model")
    torch.manual_seed(5)
    loaded = load_vae(str(tmp_path / "model"))
    drawn = torch.rand(1)
    assert type(loaded.encoder) is type(model.encoder) and loaded.architecture == model.architecture
    assert loaded.state_dict().keys() == model.state_dict().keys()
    for name, value in loaded.state_dict().items():
        assert torch.equal(value, model.state_dict()[name]) and value.dtype == model.state_dict()[name].dtype
    x = IMAGES.to(next(model.parameters()).dtype)
    assert torch.equal(loaded.reconstruct(x), model.reconstruct(x))
    assert all(p.requires_grad for p in loaded.parameters()) and fit(loaded, x, epochs=1, progress=False)
    assert torch.equal(drawn, torch.rand(1, generator=torch.Generator().manual_seed(5)))  # loading draws nothing


def test_files_are_loaded_as_weights_only_wherever_they_were_written(tmp_path, monkeypatch):
    told = []
    load = torch.load
    monkeypatch.setattr(torch, "load", lambda *a, **k: (told.append(k), load(*a, **k))[1])
    save_vae(small_model(), tmp_path / "model")
    load_vae(tmp_path / "model")
    assert told == [{"map_location": "cpu", "weights_only": True}]


def test_a_saved_model_that_is_damaged_is_refused(tmp_path):
    path = tmp_path / "model"
    save_vae(small_model(), path)
    sound = path.read_bytes()
    for content in (b"", sound[:-1], sound[:100] + b"?" + sound[101:]):
        path.write_bytes(content)
        with pytest.raises(ValueError, match="model is no trained model that can be read: it is damaged"):
            load_vae(path)
    train(small_model(), tmp_path / "run")
    with pytest.raises(ValueError, match="run is no trained model that can be read: it is a checkpoint of fit"):
        load_vae(tmp_path / "run")
    with pytest.raises(FileNotFoundError, match="nowhere"):
        load_vae(tmp_path / "nowhere")


def test_a_model_that_cannot_be_built_again_is_not_saved(tmp_path):
    swapped = small_model()
    swapped.encoder = Encoder(2, (8,))
    for model in (VAE(Encoder(2, (16,)), Decoder(2, (8,))), swapped):
        with pytest.raises(TypeError, match=r"^model must be as mlp_vae or conv_vae made it; .* model.state_dict\(\)$"):
            save_vae(model, tmp_path / "model")
    assert not list(tmp_path.iterdir())


def test_a_model_is_not_lost_when_its_file_cannot_be_written_again(tmp_path, monkeypatch):
    path = tmp_path / "model"
    save_vae(small_model(), path)
    before = path.read_bytes()
    monkeypatch.setattr(os, "replace", lambda *args: (_ for _ in ()).throw(PermissionError(13, "Permission denied")))
    with pytest.raises(PermissionError, match="trained model could not be written"):
        save_vae(small_model(1), path)
    assert path.read_bytes() == before and [p.name for p in tmp_path.iterdir()] == ["model"]


def test_torch_load_reads_the_files_too(tmp_path):
    save_vae(small_model(), tmp_path / "model")
    content = torch.load(tmp_path / "model", weights_only=True)
    assert content["architecture"] == {"kind": "mlp_vae", "latent_dim": 2, "hidden_dims": [16]}


# A run that is killed in earnest. `python test_checkpoint.py FOLDER SEED` forks a process for every attempt, so that
# PyTorch is imported once, and kills it; what it prints goes to the test below.


class SlowFile(io.FileIO):
    """A file that takes its time: half-written files are there to be found."""

    def write(self, data):
        for start in range(0, len(data), len(data) // 5 + 1):
            super().write(data[start : start + len(data) // 5 + 1])
            time.sleep(0.001)


def attempt(folder, checkpoint):
    """Train in this process, with a slow disk and a checkpoint after every batch; leave the result in a file."""
    vae_utils.CHECKPOINT_SECONDS = -1
    Path.open = lambda self, mode: SlowFile(self, mode.replace("b", ""))
    model = small_model(seed=random.randrange(1000) if checkpoint and checkpoint.exists() else 0)
    history = train(model, checkpoint, epochs=8, num_samples=2)
    torch.save({"history": history, "weights": weights(model)}, folder / "result.part")
    os.replace(folder / "result.part", folder / "result")


def outcome(folder, checkpoint, seconds=None):
    """Fork an attempt and kill it after so many seconds. Returns its result, or None if it had none by then."""
    (folder / "result").unlink(missing_ok=True)
    child = os.fork()
    if child == 0:
        attempt(folder, checkpoint)
        os._exit(0)
    if seconds is not None:
        time.sleep(seconds)
        os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    assert seconds is not None or status == 0
    assert os.WIFSIGNALED(status) or status == 0, status
    return torch.load(folder / "result", weights_only=True) if (folder / "result").exists() else None


def kill_again_and_again(folder, seed):
    draw = random.Random(seed)
    expected = outcome(folder, None)
    kills = inside_a_write = finished = 0
    while kills < 25 or inside_a_write < 5 or not finished:
        checkpoint = folder / f"run {finished}"
        result = outcome(folder, checkpoint, draw.uniform(0, 0.25))
        if result is None:
            kills += 1
            inside_a_write += Path(f"{checkpoint}.part").exists()
        else:
            finished += 1
            assert result["history"] == expected["history"]
            assert torch.equal(result["weights"], expected["weights"])
    print(f"{kills} kills, {inside_a_write} of them inside a write, {finished} runs finished")


@pytest.mark.skipif(not hasattr(os, "fork") or sys.platform == "darwin", reason="forks processes that use PyTorch")
def test_a_run_killed_again_and_again_ends_with_the_same_bits(tmp_path):
    command = [sys.executable, __file__, str(tmp_path), "0"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(vae_utils.__file__).parent)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "kills" in done.stdout


if __name__ == "__main__":
    kill_again_and_again(Path(sys.argv[1]), int(sys.argv[2]))


def test_ctrl_c_before_the_first_row_stands():
    model = small_model()

    def interrupt(*args):
        raise KeyboardInterrupt

    model.encoder.register_forward_pre_hook(interrupt)
    with pytest.raises(KeyboardInterrupt):
        train(model, None)
