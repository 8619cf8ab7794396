"""Data: sound files in every place and form, bad files against a reader written a second time, the shipped MNIST.

The normal run tries 500 files of each form that chance has damaged; `pytest -m slow` tries 20,000.
"""

import gzip
import hashlib
import math
import random
import shutil
import struct
import tracemalloc
import zlib
from http.client import IncompleteRead
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import torch
from torchvision import datasets

import vae_utils
from vae_utils import IDX_LIMIT, VARIANTS, binarize, class_names, load_mnist, read_idx

DATA = Path(__file__).parent.parent / "data"
MEGABYTE = 1 << 20


def idx_bytes(array):
    return struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape) + array.astype(np.uint8).tobytes()


def pack(content):
    return gzip.compress(content, mtime=0)


@pytest.fixture
def images():
    return np.random.default_rng(0).integers(0, 256, (5, 28, 28), dtype=np.uint8)


def write_small_mnist(folder, images, dot=False, gz=False, inside=False):
    """Four small files: five images and their labels for training, two for testing; if inside, NAME is NAME/NAME."""
    for stem, n in (("train", 5), ("t10k", 2)):
        for kind, array in (("images-idx3", images[:n]), ("labels-idx1", np.arange(n))):
            name = f"{stem}-{kind.replace('-', '.') if dot else kind}-ubyte{'.gz' if gz else ''}"
            path = folder / name / name if inside else folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(pack(idx_bytes(array)) if gz else idx_bytes(array))


@pytest.fixture
def no_download(monkeypatch):
    """A machine without a network, as torchvision sees one."""
    monkeypatch.setattr(datasets.MNIST, "download", mock.Mock(side_effect=RuntimeError("Error downloading images")))


def by_hand(content):
    """The array of a sound IDX file of bytes, plain or gzipped, or None."""
    try:
        data = gzip.decompress(content) if content[:2] == b"\x1f\x8b" else content
    except (EOFError, OSError, struct.error, zlib.error):
        return None
    if len(data) < 4 or data[:3] != b"\0\0\x08" or not 1 <= data[3] <= 64 or len(data) < 4 + 4 * data[3]:
        return None
    shape, values = struct.unpack_from(f">{data[3]}I", data, 4), list(data[4 + 4 * data[3] :])
    return np.array(values, dtype=np.uint8).reshape(shape) if math.prod(shape) == len(values) > 0 else None


def read(path, content):
    """What read_idx returns, or None for a ValueError that names the file, and the peak of memory on the way."""
    path.unlink(missing_ok=True)  # some file systems wait for the disk when a file is written over
    path.write_bytes(content)
    tracemalloc.start()
    try:
        result = read_idx(path)
    except ValueError as error:
        assert str(path) in str(error)
        result = None
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return result, peak


GOOD = np.arange(12, dtype=np.uint8).reshape(3, 2, 2)
BYTES = idx_bytes(GOOD)
FAULTS = {
    "empty": b"", "bad magic": b"\0\1" + BYTES[2:], "floats": b"\0\0\x0d" + BYTES[3:], "no dimensions": b"\0\0\x08\0\7",
    "within the header": BYTES[:12], "short": BYTES[:-1], "long": BYTES + b"\0", "no values": b"\0\0\x08\1\0\0\0\0",
    "another file": b"<html></html>", "packed html": pack(b"<html></html>"), "long and packed": pack(BYTES + b"\0"),
    "gzip cut off": pack(BYTES)[:-9], "another checksum": pack(BYTES)[:-8] + bytes(8),
    "an image too few": struct.pack(">BBBB3I", 0, 0, 8, 3, 4, 2, 2) + bytes(12),
}  # fmt: skip


@pytest.mark.parametrize("content", FAULTS.values(), ids=FAULTS)
def test_a_bad_file_is_refused_by_name(tmp_path, content):
    assert by_hand(content) is None and read(tmp_path / "train-images-idx3-ubyte", content)[0] is None


INTERESTING = [b"\0", b"\xff", b"\x7f", b"\x80", b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", b"\x80\0\0\0", b"\0\0\0\0"]


def mutate(content, draw):
    """One to three changes, half of them near the start: bytes put in, put in the place of others, or taken out."""
    data = bytearray(content)
    for _ in range(draw.randint(1, 3)):
        at = draw.randrange(min(len(data), draw.choice([24, 1000])) + 1)
        word = draw.choice([b"", draw.randbytes(1), draw.choice(INTERESTING), bytes(data[:8])])
        data[at : at + draw.choice([0, len(word), draw.randint(1, 8), len(data)])] = word
    return bytes(data)


@pytest.mark.parametrize("count", [500, pytest.param(20_000, marks=pytest.mark.slow)])
@pytest.mark.parametrize("compress", [bytes, pack], ids=["plain", "gz"])
def test_files_that_chance_has_damaged_give_what_another_reader_finds_or_are_refused(tmp_path, compress, count):
    draw, kept = random.Random(0), 0
    sound = idx_bytes(np.random.default_rng(0).integers(0, 256, (2, 5, 5)))
    for _ in range(count):
        # Half of the gzipped ones are damaged before they are packed, so that the damage lies behind a sound checksum.
        content = compress(mutate(sound, draw)) if draw.random() < 0.5 else mutate(compress(sound), draw)
        (found, peak), expected = read(tmp_path / "images", content), by_hand(content)
        assert peak < 2 * IDX_LIMIT + 4 * MEGABYTE, (peak, content)
        assert (expected is None) == (found is None), content
        if found is not None:
            np.testing.assert_array_equal(found, expected)
        kept += found is not None
    assert count // 50 < kept < count  # some were read, and some refused


@pytest.mark.parametrize("compress", [bytes, pack], ids=["plain", "gz"])
def test_a_header_that_claims_too_much_costs_nothing_and_another_no_more_than_it_claims(tmp_path, compress):
    for claim, most in ((IDX_LIMIT // 784, IDX_LIMIT), (IDX_LIMIT // 784 + 1, 0), (2**31, 0), (2**32 - 1, 0)):
        content = struct.pack(">BBBB3I", 0, 0, 8, 3, claim, 28, 28) + bytes(100)
        found, peak = read(tmp_path / "images", compress(content))
        assert found is None and peak < 2 * most + 4 * MEGABYTE
    bomb = struct.pack(">BBBB3I", 0, 0, 8, 3, 1, 28, 28) + bytes(300 * MEGABYTE)
    found, peak = read(tmp_path / "images.gz", gzip.compress(bomb, compresslevel=1))
    assert found is None and peak < 8 * MEGABYTE  # read no further than its header promises


@pytest.mark.parametrize("compress", [bytes, pack], ids=["plain", "gz"])
def test_sound_files_are_read_from_one_value_to_the_limit(tmp_path, monkeypatch, compress):
    np.testing.assert_array_equal(read(tmp_path / "file", compress(BYTES))[0], GOOD)
    read(tmp_path / "file", compress(BYTES[:-1]))
    with pytest.raises(ValueError, match=r"12 .*\b11\b"):  # it says how many there should be
        read_idx(tmp_path / "file")
    monkeypatch.setattr(vae_utils, "IDX_LIMIT", 3)
    for size in (1, 3, 4):
        found = read(tmp_path / "file", compress(idx_bytes(np.ones(size))))[0]
        assert found is None if size == 4 else found.tolist() == size * [1]


@pytest.mark.parametrize("gz", [False, True])
@pytest.mark.parametrize("dot", [False, True])
@pytest.mark.parametrize("inside", [False, True])  # Kaggle unpacks an uploaded NAME.gz into a folder NAME
@pytest.mark.parametrize("place", ["", "MNIST/raw", "MNIST", "mnist-dataset", "datasets/someone/mnist-dataset"])
def test_every_form_of_the_files_is_found_in_every_place_and_nothing_written(
    tmp_path, images, no_download, gz, dot, inside, place
):
    write_small_mnist(tmp_path / "data" / place, images, dot, gz, inside)
    before = sorted(tmp_path.rglob("*"))
    for path in before:
        path.chmod(0o500 if path.is_dir() else 0o400)
    mnist = load_mnist(tmp_path / "data")
    assert mnist.train_images.dtype == torch.float32 and mnist.test_labels.dtype == torch.int64
    np.testing.assert_array_equal(mnist.train_images.numpy(), images.reshape(5, 784) / np.float32(255))
    assert torch.equal(mnist.test_images, mnist.train_images[:2])
    assert mnist.train_labels.tolist() == [0, 1, 2, 3, 4] and mnist.test_labels.tolist() == [0, 1]
    assert sorted(tmp_path.rglob("*")) == before


def test_the_four_files_come_from_one_dataset_the_deepest_that_has_all(tmp_path, images, no_download):
    """Of these three the first has no labels, and the last lies less deep."""
    write_small_mnist(tmp_path / "a-part/of/mnist", 0 * images)
    for path in tmp_path.rglob("*labels*"):
        path.unlink()
    write_small_mnist(tmp_path / "b/whole", images)
    write_small_mnist(tmp_path / "c", 0 * images)
    assert (load_mnist(tmp_path).train_images.numpy() == images.reshape(5, 784) / np.float32(255)).all()


def test_the_variants_folder_comes_first_then_root_then_the_network(tmp_path, images, monkeypatch):
    monkeypatch.setattr(datasets.MNIST, "download", lambda self: pytest.fail("downloads what is there"))
    for level, folder in enumerate(("somewhere/deep/in/the/root", "MNIST/raw")):
        write_small_mnist(tmp_path / folder, np.full_like(images, 51 * level))
        assert (load_mnist(tmp_path).train_images == torch.tensor(51 * level / 255)).all()


# Folders as torchvision and as the users of Kaggle name them; the file names in all of these datasets are the same.
FOLDERS = {
    "torchvision": {variant: f"{variant}/raw" for variant in VARIANTS},
    "kaggle": {"MNIST": "mnist-dataset", "FashionMNIST": "Fashion-MNIST", "KMNIST": "datasets/someone/kuzushiji"},
    "other": {"MNIST": "datasets/someone/hojjatk-mnist", "FashionMNIST": "fashionmnist", "KMNIST": "KMNIST"},
}


@pytest.mark.parametrize("folders", FOLDERS.values(), ids=FOLDERS)
@pytest.mark.parametrize("variant", VARIANTS)
def test_no_variant_is_taken_for_another(tmp_path, images, no_download, variant, folders):
    for level, folder in enumerate(folders.values()):
        write_small_mnist(tmp_path / folder, np.full_like(images, 51 * level))
    expected = torch.tensor(51 * list(folders).index(variant) / 255)
    assert (load_mnist(tmp_path, variant=variant).train_images == expected).all()
    shutil.rmtree(tmp_path / folders[variant])
    with pytest.raises(FileNotFoundError, match=f"No {variant} below"):
        load_mnist(tmp_path, variant=variant)


@pytest.mark.parametrize(("name", "array", "found"), [
    ("train-labels-idx1", np.arange(4), r"\(4,\)"),
    ("train-labels-idx1", np.zeros((5, 1)), r"\(5, 1\)"),
    ("t10k-labels-idx1", np.array([0, 10]), "up to 10"),
    ("t10k-images-idx3", np.zeros((2, 28, 27)), r"\(2, 28, 27\)"),
])  # fmt: skip
def test_files_that_do_not_belong_together(tmp_path, images, name, array, found):
    write_small_mnist(tmp_path, images)
    path = tmp_path / f"{name}-ubyte"
    path.write_bytes(idx_bytes(array))
    with pytest.raises(ValueError, match=f"do not belong together.*{found}") as caught:
        load_mnist(tmp_path)
    assert str(path) in str(caught.value)


ON_KAGGLE = {
    "MNIST": "hojjatk/mnist-dataset", "FashionMNIST": "zalando-research/fashionmnist",
    "KMNIST": "a dataset of these files",
}  # fmt: skip


@pytest.mark.parametrize("variant", VARIANTS)
def test_without_files_the_error_is_one_line_and_names_the_dataset_to_attach_on_kaggle(tmp_path, variant):
    with pytest.raises(FileNotFoundError) as caught:
        load_mnist(tmp_path, variant=variant, download=False)
    assert str(caught.value).endswith(f"On Kaggle, choose Add Input and attach {ON_KAGGLE[variant]}.")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("error", [None, RuntimeError("no mirror"), OSError(13, "denied"), IncompleteRead(b"half")])
def test_without_files_the_error_says_which_are_wanted_where_and_why_none_came(tmp_path, monkeypatch, error):
    monkeypatch.setattr(datasets.MNIST, "download", mock.Mock(side_effect=error))
    with pytest.raises(FileNotFoundError) as caught:
        load_mnist(tmp_path, variant="KMNIST", download=error is not None)
    words = ["KMNIST", tmp_path, "root", str(error) if error else "download=True", *vae_utils.FILES]
    assert all(str(word) in str(caught.value) for word in words), caught.value
    assert datasets.MNIST.download.called is bool(error)
    monkeypatch.setattr(datasets.MNIST, "__init__", lambda self, root, download: None)  # which brings nothing
    with pytest.raises(FileNotFoundError, match="did not bring them"):
        load_mnist(tmp_path)


@pytest.mark.parametrize("variant", VARIANTS)
def test_what_is_missing_is_downloaded_into_root(tmp_path, images, monkeypatch, variant):
    monkeypatch.setattr(datasets.MNIST, "download", lambda self: write_small_mnist(Path(self.raw_folder), images))
    monkeypatch.setattr(datasets.MNIST, "_load_data", lambda self: ([], []))
    assert len(load_mnist(tmp_path, variant=variant).train_images) == 5
    assert (tmp_path / variant / "raw" / "train-images-idx3-ubyte").is_file()


def test_the_shipped_files_are_the_originals_and_hold_mnist(monkeypatch):
    for name, md5 in datasets.MNIST.resources:
        assert hashlib.md5((DATA / "MNIST" / "raw" / name).read_bytes()).hexdigest() == md5
    monkeypatch.chdir(DATA.parent)
    mnist = load_mnist(download=False)  # from the folder data, if none is named
    assert mnist.train_images.shape == (60000, 784) and mnist.test_images.shape == (10000, 784)
    assert mnist.train_labels.shape == (60000,) and mnist.train_labels[:5].tolist() == [5, 0, 4, 1, 9]
    assert torch.bincount(mnist.test_labels).tolist() == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
    assert mnist.train_images.mean().item() == pytest.approx(0.1307, abs=5e-5)  # by which every tutorial normalises


def test_class_names_are_ten_for_each_variant():
    assert class_names() == ("0", "1", "2", "3", "4", "5", "6", "7", "8", "9")
    assert class_names("FashionMNIST")[:2] == ("T-shirt/top", "Trouser") and class_names("KMNIST")[0] == "o"
    assert all(len(class_names(variant)) == 10 for variant in VARIANTS)


def test_binarize_draws_each_grey_level_with_its_probability():
    levels = torch.linspace(0, 1, 784).expand(4000, 784)
    draws, again, others = (binarize(levels, generator=torch.Generator().manual_seed(seed)) for seed in (0, 0, 1))
    assert torch.equal(draws, again) and not torch.equal(draws, others) and not torch.equal(draws[0], draws[1])
    assert set(draws.unique().tolist()) == {0.0, 1.0}
    standard_error = (levels[0] * (1 - levels[0]) / 4000).sqrt()
    assert ((draws.mean(0) - levels[0]).abs() <= 5 * standard_error).all()  # exactly 0 at the levels 0 and 1
