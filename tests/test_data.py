"""Data: sound files in every place and form, bad ones against a reader written a second time, the shipped MNIST."""

import gzip
import hashlib
import math
import struct
import tracemalloc
import zlib
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import torch
from torchvision import datasets

import vae_utils
from vae_utils import FILES, IDX_LIMIT, VARIANTS, load_mnist, read_idx

DATA = Path(__file__).parent.parent / "data"
IMAGES = np.random.default_rng(0).integers(0, 256, (5, 28, 28), dtype=np.uint8)


def idx_bytes(array):
    return struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape) + array.astype(np.uint8).tobytes()


def pack(content):
    return gzip.compress(content, compresslevel=1, mtime=0)


def write_small_mnist(folder, images, dot=False, gz=False, inside=False, test=2):
    """Four small files: all images and their labels for training, some for testing; if inside, NAME is NAME/NAME."""
    for stem, n in (("train", len(images)), ("t10k", test)):
        for kind, array in (("images-idx3", images[:n]), ("labels-idx1", np.arange(n) % 10)):
            name = f"{stem}-{kind.replace('-', '.') if dot else kind}-ubyte{'.gz' if gz else ''}"
            path = folder / name / name if inside else folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(pack(idx_bytes(array)) if gz else idx_bytes(array))


@pytest.fixture
def download(monkeypatch):
    """In place of torchvision's download: a machine without a network, unless a test changes it."""
    monkeypatch.setattr(datasets.MNIST, "download", mock.Mock(side_effect=RuntimeError("no mirror")))
    return datasets.MNIST.download


def by_hand(content):
    """The array of a sound IDX file of bytes, plain or gzipped, or None."""
    try:
        data = gzip.decompress(content) if content[:2] == b"\x1f\x8b" else content
        shape, values = struct.unpack_from(f">{data[3]}I", data, 4), list(data[4 + 4 * data[3] :])
        sound = data[:3] == b"\0\0\x08" and data[3] > 0 and math.prod(shape) == len(values) > 0
        return np.array(values, dtype=np.uint8).reshape(shape) if sound else None
    except (EOFError, IndexError, OSError, ValueError, struct.error, zlib.error):
        return None


def read(path, content):
    """What read_idx returns, or None for a ValueError that names the file."""
    path.unlink(missing_ok=True)  # some file systems wait for the disk when a file is written over
    path.write_bytes(content)
    try:
        return read_idx(path)
    except ValueError as error:
        assert str(path) in str(error)


def test_a_damaged_file_is_refused_by_name_or_read_as_another_reader_does(tmp_path):
    good = idx_bytes(np.arange(12).reshape(3, 2, 2))
    changes = (b"", b"\0", b"\1", b"\xff", b"\0\0")  # in the place of each byte in turn
    plain = [b"", good, good[:12], b"\0\0\x08\0\7", b"\0\0\x08\1\0\0\0\0", b"<html></html>"]
    plain += [good[:place] + change + good[place + 1 :] for place in range(len(good)) for change in changes]
    packed = [pack(content) for content in plain] + [b"\x1f\x8b" + good]
    packed += [pack(good)[:-9], pack(good)[:-8] + bytes(8), pack(good)[:10] + b"\xff" + pack(good)[11:]]
    for content in plain + packed:
        found, expected = read(tmp_path / "train-images-idx3-ubyte", content), by_hand(content)
        np.testing.assert_array_equal(found, expected, err_msg=str(content), strict=True)


@pytest.mark.parametrize("compress", [bytes, pack], ids=["plain", "gz"])
def test_a_file_costs_no_more_memory_than_its_header_may_claim(tmp_path, compress, monkeypatch):
    for claim, size in ((IDX_LIMIT // 784 + 1, 100), (2**32 - 1, 100), (1, 50_000_000)):
        content = compress(struct.pack(">BBBB3I", 0, 0, 8, 3, claim, 28, 28) + bytes(size))
        tracemalloc.start()
        assert read(tmp_path / "file", content) is None
        assert tracemalloc.get_traced_memory()[1] < 8_000_000
        tracemalloc.stop()
    monkeypatch.setattr(vae_utils, "IDX_LIMIT", 3)
    assert read(tmp_path / "file", compress(idx_bytes(np.ones(3)))).tolist() == [1, 1, 1]
    assert read(tmp_path / "file", compress(idx_bytes(np.ones(4)))) is None


@pytest.mark.filterwarnings("error")  # as PyTorch warns of memory that cannot be written to
@pytest.mark.parametrize(("place", "dot", "gz", "inside"), [
    ("", False, False, False), ("MNIST/raw", False, True, False), ("MNIST", True, False, False),
    ("mnist-dataset", False, False, True),  # as Kaggle unpacks an uploaded NAME.gz
    ("datasets/someone/mnist-dataset", True, True, True),
])  # fmt: skip
def test_every_form_of_the_files_is_found_everywhere_and_nothing_written(tmp_path, download, place, dot, gz, inside):
    root = tmp_path / "KMNIST"  # the names of folders above root tell nothing
    write_small_mnist(root / place, IMAGES, dot, gz, inside)
    before = sorted(tmp_path.rglob("*"))
    mnist = load_mnist(root)
    expected = torch.from_numpy(IMAGES.reshape(5, 784) / np.float32(255))
    assert torch.equal(mnist.train_images, expected) and torch.equal(mnist.test_images, expected[:2])
    assert torch.equal(mnist.train_labels, torch.arange(5)) and torch.equal(mnist.test_labels, torch.arange(2))
    assert mnist.train_images.dtype == torch.float32 and mnist.test_labels.dtype == torch.int64
    assert sorted(tmp_path.rglob("*")) == before


def test_the_deepest_dataset_that_is_whole_is_taken_in_the_variants_folder_then_in_root(tmp_path, download):
    write_small_mnist(tmp_path / "a-part/of/an/mnist", 0 * IMAGES)
    (tmp_path / "a-part/of/an/mnist/t10k-labels-idx1-ubyte").unlink()
    for level, folder in enumerate(["shallow", "some/deeper/whole", "MNIST/raw"]):
        write_small_mnist(tmp_path / folder, np.full_like(IMAGES, 51 * level))
        assert (load_mnist(tmp_path).train_images == torch.tensor(51 * level / 255)).all()
    assert not download.called


@pytest.mark.parametrize("folders", [  # of torchvision, and of users of Kaggle; the files in all have the same names
    ["MNIST/raw", "FashionMNIST/raw", "KMNIST/raw"],
    ["mnist-dataset", "Fashion-MNIST", "datasets/someone/kuzushiji"],
    ["datasets/someone/hojjatk-mnist", "fashionmnist", "KMNIST"],
])  # fmt: skip
def test_no_variant_is_taken_for_another(tmp_path, download, folders):
    for level, folder in enumerate(folders):
        write_small_mnist(tmp_path / folder, np.full_like(IMAGES, 51 * level))
    for level, variant in enumerate(VARIANTS):
        assert (load_mnist(tmp_path, variant=variant).train_images == torch.tensor(51 * level / 255)).all()
        away = (tmp_path / folders[level]).rename(tmp_path.with_name("away"))
        with pytest.raises(FileNotFoundError, match=f"No {variant} below"):
            load_mnist(tmp_path, variant=variant)
        away.rename(tmp_path / folders[level])


@pytest.mark.parametrize(("name", "array", "found"), [
    ("train-labels-idx1", np.arange(4), r"\(4,\)"),
    ("train-labels-idx1", np.zeros((5, 1)), r"\(5, 1\)"),
    ("t10k-labels-idx1", np.array([0, 10]), "up to 10"),
    ("t10k-images-idx3", np.zeros((2, 28, 27)), r"\(2, 28, 27\)"),
])  # fmt: skip
def test_files_that_do_not_belong_together(tmp_path, name, array, found):
    write_small_mnist(tmp_path, IMAGES)
    (tmp_path / f"{name}-ubyte").write_bytes(idx_bytes(array))
    with pytest.raises(ValueError, match=f"{name}.*do not belong together.*{found}"):
        load_mnist(tmp_path)


@pytest.mark.parametrize("error", [None, OSError(30, "read-only"), RuntimeError("Tried this,\ngot: that\n")])
@pytest.mark.parametrize("variant", VARIANTS)
def test_without_files_the_error_says_in_one_line_what_to_do(tmp_path, download, variant, error):
    download.side_effect = error
    with pytest.raises(FileNotFoundError) as caught:
        load_mnist(tmp_path, variant=variant, download=error is not None)
    kaggle = {"MNIST": "hojjatk/mnist-dataset", "FashionMNIST": "zalando-research/fashionmnist", "KMNIST": "Kaggle"}
    why = " ".join(str(error).split()) if error else "download=True"
    wanted = [variant, tmp_path, "root", why, kaggle[variant], *FILES]
    assert [word for word in wanted if str(word) not in str(caught.value)] == [] and "\n" not in str(caught.value)
    assert download.called is bool(error)


def test_what_is_missing_is_downloaded_into_root_or_said_not_to_come(tmp_path, download, monkeypatch):
    monkeypatch.setattr(datasets.MNIST, "_check_exists", lambda self: True)
    monkeypatch.setattr(datasets.MNIST, "_load_data", lambda self: ([], []))
    download.side_effect = None
    with pytest.raises(FileNotFoundError, match="did not bring them"):
        load_mnist(tmp_path, variant="KMNIST")
    monkeypatch.setattr(datasets.MNIST, "download", lambda self: write_small_mnist(Path(self.raw_folder), IMAGES))
    assert len(load_mnist(tmp_path, variant="KMNIST").train_images) == 5


def test_the_shipped_files_are_the_originals_and_hold_mnist(monkeypatch):
    for name, md5 in datasets.MNIST.resources:
        assert hashlib.md5((DATA / "MNIST" / "raw" / name).read_bytes()).hexdigest() == md5
    monkeypatch.chdir(DATA.parent)
    mnist = load_mnist(download=False)  # from the folder data, if none is named
    assert [tuple(part.shape) for part in mnist] == [(60000, 784), (60000,), (10000, 784), (10000,)]
    assert mnist.train_labels[:5].tolist() == [5, 0, 4, 1, 9]
    assert torch.bincount(mnist.test_labels).tolist() == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
    assert mnist.train_images.mean().item() == pytest.approx(0.1307, abs=5e-5)  # by which every tutorial normalises
