"""Data: files that are sound and files that are not, where they are looked for, the shipped MNIST, binarisation."""

import gzip
import hashlib
import shutil
import struct
from http.client import IncompleteRead
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import torch
from torchvision import datasets

import vae_utils
from vae_utils import binarize, class_names, load_mnist, read_idx

DATA = Path(__file__).parent.parent / "data"
KAGGLE = [f"kaggle/input/{folder}mnist-dataset" for folder in ("", "datasets/someone/", "competitions/")]


def idx_bytes(array, type_code=8):
    return struct.pack(f">BBBB{array.ndim}I", 0, 0, type_code, array.ndim, *array.shape) + array.tobytes()


@pytest.fixture
def images():
    return np.random.default_rng(0).integers(0, 256, (5, 28, 28), dtype=np.uint8)


def write_small_mnist(folder, images, dot=False, gz=False):
    """Four small files: the five images and their labels for training, the first two for testing."""
    folder.mkdir(parents=True, exist_ok=True)
    labels = np.arange(5, dtype=np.uint8)
    for stem, n in (("train", 5), ("t10k", 2)):
        for kind, array in (("images-idx3", images[:n]), ("labels-idx1", labels[:n])):
            name = f"{stem}-{kind.replace('-', '.') if dot else kind}-ubyte"
            content = idx_bytes(array)
            if gz:
                name, content = name + ".gz", gzip.compress(content)
            (folder / name).write_bytes(content)


@pytest.fixture(autouse=True)
def kaggle(tmp_path, monkeypatch):
    """Where these tests take /kaggle/input to be, wherever they run. It exists once a test puts something into it."""
    folder = tmp_path / "kaggle" / "input"
    monkeypatch.setattr(vae_utils, "KAGGLE_INPUT", folder)
    return folder


@pytest.fixture
def no_download(monkeypatch):
    """A machine without a network, as torchvision sees one."""
    monkeypatch.setattr(datasets.MNIST, "download", mock.Mock(side_effect=RuntimeError("Error downloading images")))


@pytest.mark.parametrize("compress", [bytes, gzip.compress])
def test_read_idx_gives_back_what_was_written(tmp_path, images, compress):
    (tmp_path / "file").write_bytes(compress(idx_bytes(images)))
    array = read_idx(tmp_path / "file")
    assert array.dtype == np.uint8 and np.array_equal(array, images)


def test_read_idx_reads_from_one_value_to_its_limit(tmp_path, monkeypatch):
    monkeypatch.setattr(vae_utils, "IDX_LIMIT", 3)
    for size in (1, 3, 4):
        (tmp_path / "file").write_bytes(idx_bytes(np.ones(size, dtype=np.uint8)))
        if size <= 3:
            assert read_idx(tmp_path / "file").tolist() == size * [1]
    with pytest.raises(ValueError, match="declares 4"):
        read_idx(tmp_path / "file")


GOOD = idx_bytes(np.arange(12, dtype=np.uint8).reshape(3, 2, 2))
FAULTS = {
    "empty file": (b"", "ends inside its header"),
    "bad magic": (b"\0\1" + GOOD[2:], "does not start like"),
    "wrong type": (idx_bytes(np.zeros((3, 2), dtype=">f4"), 0x0D), "unsigned bytes"),
    "no dimensions": (b"\0\0\x08\0\7", "does not start like"),
    "inside the header": (GOOD[:12], "ends inside its header"),
    "short": (GOOD[:-1], "declares 12 .* holds 11"),
    "trailing bytes": (GOOD + b"\0", "declares 12 .* holds more"),
    "no values": (idx_bytes(np.zeros((0, 28, 28), dtype=np.uint8)), "declares 0"),
    "more than any memory": (b"\0\0\x08\x03" + b"\xff" * 12, "declares 79,228"),
    "truncated gzip": (gzip.compress(GOOD)[:-9], "end-of-stream"),
    "damaged gzip": (gzip.compress(GOOD)[:-8] + b"\0" * 8, "CRC"),
    "gzip of something else": (gzip.compress(b"<html></html>"), "does not start like"),
}


@pytest.mark.parametrize(("content", "fault"), FAULTS.values(), ids=FAULTS)
def test_read_idx_names_the_file_and_the_fault(tmp_path, content, fault):
    path = tmp_path / "train-images-idx3-ubyte"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=rf"train-images-idx3-ubyte is not a valid IDX file: .*{fault}"):
        read_idx(path)


@pytest.mark.parametrize("gz", [False, True])
@pytest.mark.parametrize("dot", [False, True])
@pytest.mark.parametrize("place", ["data", "data/MNIST/raw", *KAGGLE])
def test_every_form_of_the_files_is_found_in_every_place(tmp_path, images, no_download, gz, dot, place):
    write_small_mnist(tmp_path / place, images, dot, gz)
    mnist = load_mnist(tmp_path / "data")
    assert mnist.train_images.dtype == torch.float32 and mnist.test_labels.dtype == torch.int64
    np.testing.assert_array_equal(mnist.train_images.numpy(), images.reshape(5, 784) / np.float32(255))
    assert torch.equal(mnist.test_images, mnist.train_images[:2])
    assert mnist.train_labels.tolist() == [0, 1, 2, 3, 4] and mnist.test_labels.tolist() == [0, 1]


def test_a_read_only_folder_is_read_and_nothing_written(tmp_path, images, no_download):
    write_small_mnist(tmp_path / "data" / "MNIST" / "raw", images)
    before = sorted(tmp_path.rglob("*"))
    for path in before:
        path.chmod(0o500 if path.is_dir() else 0o400)
    assert len(load_mnist(tmp_path / "data").train_images) == 5
    assert sorted(tmp_path.rglob("*")) == before


def test_the_shipped_files_are_the_originals_and_hold_mnist(monkeypatch):
    for name, md5 in datasets.MNIST.resources:
        assert hashlib.md5((DATA / "MNIST" / "raw" / name).read_bytes()).hexdigest() == md5
    monkeypatch.chdir(DATA.parent)
    mnist = load_mnist(download=False)  # from the folder data, if none is named
    assert mnist.train_images.shape == (60000, 784) and mnist.test_images.shape == (10000, 784)
    assert mnist.train_labels.shape == (60000,) and mnist.train_labels[:5].tolist() == [5, 0, 4, 1, 9]
    assert torch.bincount(mnist.test_labels).tolist() == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
    assert mnist.train_images.mean().item() == pytest.approx(0.1307, abs=5e-5)  # by which every tutorial normalises


@pytest.mark.parametrize("error", [None, RuntimeError("no mirror"), OSError(13, "denied"), IncompleteRead(b"half")])
def test_without_files_the_error_says_where_it_looked_and_why_none_came(tmp_path, monkeypatch, error):
    monkeypatch.setattr(datasets.MNIST, "download", mock.Mock(side_effect=error))
    with pytest.raises(FileNotFoundError) as caught:
        load_mnist(tmp_path, variant="KMNIST", download=error is not None)
    message = str(caught.value)
    assert message.startswith(f"No KMNIST here: neither {tmp_path / 'KMNIST' / 'raw'} nor {tmp_path} holds ")
    assert all(f"{stem}-ubyte" in message for stem in ("train-images-idx3", "t10k-labels-idx1"))
    assert (f"the download failed ({error})" if error else "download=True") in message
    assert datasets.MNIST.download.called is bool(error)
    assert "root" in message and "digit-recognizer" not in message


@pytest.mark.parametrize("variant", vae_utils.VARIANTS)
def test_what_is_missing_is_downloaded_into_root(tmp_path, images, monkeypatch, variant):
    def fetch(self):
        write_small_mnist(Path(self.raw_folder), images)

    monkeypatch.setattr(datasets.MNIST, "download", fetch)
    monkeypatch.setattr(datasets.MNIST, "_load_data", lambda self: ([], []))
    assert len(load_mnist(tmp_path, variant=variant).train_images) == 5
    assert (tmp_path / variant / "raw" / "train-images-idx3-ubyte").is_file()


def test_a_download_that_brings_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.MNIST, "__init__", lambda self, root, download: None)
    with pytest.raises(FileNotFoundError, match=r"^No MNIST here: .*; the download did not bring them\."):
        load_mnist(tmp_path)


@pytest.mark.parametrize(("name", "array", "found"), [
    ("train-labels-idx1", np.arange(4), r"\(4,\)"),
    ("train-labels-idx1", np.zeros((5, 1)), r"\(5, 1\)"),
    ("t10k-labels-idx1", np.array([0, 10]), "up to 10"),
    ("t10k-images-idx3", np.zeros((2, 28, 27)), r"\(2, 28, 27\)"),
])  # fmt: skip
def test_files_that_do_not_belong_together(tmp_path, images, name, array, found):
    write_small_mnist(tmp_path, images)
    path = tmp_path / f"{name}-ubyte"
    path.write_bytes(idx_bytes(array.astype(np.uint8)))
    with pytest.raises(ValueError, match=f"do not belong together: .*{found}") as caught:
        load_mnist(tmp_path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("plain_beside", [False, True])
def test_kaggle_folders_with_the_files_names_are_walked_through(tmp_path, images, no_download, kaggle, plain_beside):
    """Kaggle unpacks an uploaded NAME.gz into a folder NAME that holds a file NAME."""
    dataset = kaggle / "mnist-dataset"
    write_small_mnist(dataset, images)
    for path in sorted(dataset.iterdir()):
        file = path.rename(dataset / "file")
        path.mkdir()
        file.rename(path / path.name)
    if plain_beside:
        write_small_mnist(dataset, images, dot=True)
    assert len(load_mnist(tmp_path / "data").train_images) == 5


def test_the_four_files_come_from_one_dataset(tmp_path, images, no_download, kaggle):
    """Of two datasets the first has no labels; nothing is put together from both."""
    write_small_mnist(kaggle / "a-part-of-mnist", np.zeros_like(images))
    for path in (kaggle / "a-part-of-mnist").glob("*labels*"):
        path.unlink()
    write_small_mnist(kaggle / "the-whole-mnist", images)
    assert torch.equal(load_mnist(tmp_path).train_images, torch.from_numpy(images / np.float32(255)).flatten(1))


def test_the_order_is_the_layout_of_torchvision_root_kaggle_network(tmp_path, images, monkeypatch, kaggle):
    monkeypatch.setattr(datasets.MNIST, "download", lambda self: pytest.fail("downloads what is there"))
    for level, folder in enumerate((kaggle / "mnist-dataset", tmp_path / "data", tmp_path / "data/MNIST/raw")):
        write_small_mnist(folder, np.full_like(images, 51 * level))
        assert (load_mnist(tmp_path / "data").train_images == torch.tensor(51 * level / 255)).all()


# On Kaggle, folders as its users name them; the file names in all of these datasets are the same.
FOLDERS = [
    {variant: f"data/{variant}/raw" for variant in vae_utils.VARIANTS},
    {"MNIST": "mnist-dataset", "FashionMNIST": "Fashion-MNIST", "KMNIST": "datasets/someone/kuzushiji"},
    {"MNIST": "datasets/someone/hojjatk-mnist", "FashionMNIST": "fashionmnist", "KMNIST": "KMNIST"},
]


@pytest.mark.parametrize("folders", FOLDERS, ids=["root", "kaggle", "kaggle with other names"])
@pytest.mark.parametrize("variant", vae_utils.VARIANTS)
def test_no_variant_is_taken_for_another(tmp_path, images, no_download, kaggle, variant, folders):
    paths = {name: (tmp_path if folder.startswith("data/") else kaggle) / folder for name, folder in folders.items()}
    for level, path in enumerate(paths.values()):
        write_small_mnist(path, np.full_like(images, 51 * level))
    expected = torch.tensor(51 * list(paths).index(variant) / 255)
    assert (load_mnist(tmp_path / "data", variant=variant).train_images == expected).all()
    shutil.rmtree(paths[variant])
    with pytest.raises(FileNotFoundError, match=f"No {variant} here"):
        load_mnist(tmp_path / "data", variant=variant)


def write_csv(folder, images, labels):
    folder.mkdir(parents=True, exist_ok=True)
    header = ",".join(["label", *(f"{row}x{column}" for row in range(1, 29) for column in range(1, 29))])
    for name, n in (("mnist_train.csv", len(images)), ("mnist_test.csv", 2)):
        table = np.column_stack([labels[:n], images[:n].reshape(n, -1)])
        np.savetxt(folder / name, table, fmt="%d", delimiter=",", header=header, comments="")


@pytest.fixture
def small_csv(images, monkeypatch, kaggle):
    monkeypatch.setattr(vae_utils, "CSV_ROWS", {"mnist_train.csv": 5, "mnist_test.csv": 2})
    folder = kaggle / "datasets" / "someone" / "mnist-in-csv"
    write_csv(folder, images, np.arange(5))
    return folder


def test_kaggle_csv_gives_what_the_idx_files_give(tmp_path, images, no_download, small_csv):
    write_small_mnist(tmp_path / "idx", images)
    for from_csv, from_idx in zip(load_mnist(tmp_path / "data"), load_mnist(tmp_path / "idx"), strict=True):
        assert from_csv.dtype == from_idx.dtype and torch.equal(from_csv, from_idx)
    with pytest.raises(FileNotFoundError, match="No KMNIST here"):
        load_mnist(tmp_path / "data", variant="KMNIST")


CSV_FAULTS = {
    "a row short": (lambda text: text[: text.rindex("\n", 0, -1) + 1], "5 rows below its header, and holds 4"),
    "a row too many": (lambda text: text + text.splitlines()[-1] + "\n", "5 rows below its header, and holds 6"),
    "empty": (lambda text: "", "5 rows"),
    "cut off in the last row": (lambda text: text[:-40], "columns"),
    "a column short": (lambda text: "\n".join(line[: line.rindex(",")] for line in text.splitlines()), "reshape"),
    "above 255": (lambda text: text.replace("\n3,", "\n300,"), "from 0 to 300"),
    "below 0": (lambda text: text.replace("\n3,", "\n-3,"), "from -3 to"),
    "between two levels": (lambda text: text.replace("\n3,", "\n2.5,"), "2.5"),
    "a word": (lambda text: text.replace("\n3,", "\nthree,"), "three"),
}


@pytest.mark.parametrize(("damage", "fault"), CSV_FAULTS.values(), ids=CSV_FAULTS)
def test_a_damaged_csv_file_is_named_with_its_fault(tmp_path, no_download, small_csv, damage, fault):
    path = small_csv / "mnist_train.csv"
    path.write_text(damage(path.read_text(encoding="ascii")), encoding="ascii")
    with pytest.raises(ValueError, match=rf"mnist_train\.csv is not a valid CSV file of MNIST: .*{fault}"):
        load_mnist(tmp_path)


def test_the_competition_alone_is_not_enough_and_the_error_says_why(tmp_path, no_download, kaggle):
    folder = kaggle / "competitions" / "digit-recognizer"
    folder.mkdir(parents=True)
    (folder / "train.csv").write_text("label,pixel0\n1,0\n", encoding="ascii")
    with pytest.raises(FileNotFoundError, match=r"^No MNIST here: .*digit-recognizer does not.* 42,000"):
        load_mnist(tmp_path)


def test_a_csv_file_has_as_many_rows_as_the_split(tmp_path, images, kaggle):
    write_csv(kaggle, images, np.arange(5))
    with pytest.raises(ValueError, match="60,000 rows below its header, and holds 5"):
        load_mnist(tmp_path)


def test_class_names_are_ten_for_each_variant():
    assert class_names() == ("0", "1", "2", "3", "4", "5", "6", "7", "8", "9")
    assert class_names("FashionMNIST")[:2] == ("T-shirt/top", "Trouser") and class_names("KMNIST")[0] == "o"
    assert all(len(class_names(variant)) == 10 for variant in vae_utils.VARIANTS)


def test_binarize_draws_each_grey_level_with_its_probability():
    levels = torch.linspace(0, 1, 784).expand(4000, 784)
    draws, again, others = (binarize(levels, generator=torch.Generator().manual_seed(seed)) for seed in (0, 0, 1))
    assert torch.equal(draws, again) and not torch.equal(draws, others) and not torch.equal(draws[0], draws[1])
    assert set(draws.unique().tolist()) == {0.0, 1.0}
    standard_error = (levels[0] * (1 - levels[0]) / 4000).sqrt()
    assert ((draws.mean(0) - levels[0]).abs() <= 5 * standard_error).all()  # exactly 0 at the levels 0 and 1
