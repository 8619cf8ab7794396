"""Data: IDX files that are sound and files that are not, the shipped MNIST, and binarisation."""

import gzip
import hashlib
import os
import shutil
import stat
import struct
from http.client import IncompleteRead
from pathlib import Path

import numpy as np
import pytest
import torch
from torchvision import datasets

import vae_utils
from vae_utils import binarize, class_names, load_mnist, read_idx

DATA = Path(__file__).parent.parent / "data"


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

    def refuse(self):
        raise RuntimeError("Error downloading train-images-idx3-ubyte.gz")

    monkeypatch.setattr(datasets.MNIST, "download", refuse)


@pytest.mark.parametrize("compress", [bytes, gzip.compress])
def test_read_idx_gives_back_what_was_written(tmp_path, images, compress):
    path = tmp_path / "file"
    path.write_bytes(compress(idx_bytes(images)))
    array = read_idx(path)
    assert array.dtype == np.uint8
    np.testing.assert_array_equal(array, images)


GOOD = idx_bytes(np.arange(12, dtype=np.uint8).reshape(3, 2, 2))
FAULTS = {
    "empty file": (b"", "after 0 bytes"),
    "inside the magic number": (GOOD[:3], "after 3 bytes"),
    "bad magic": (b"\x89PNG" + GOOD[4:], "0x89504e47"),
    "wrong type": (idx_bytes(np.zeros((3, 2), dtype=">f4"), 0x0D), "0x0d"),
    "no dimensions": (b"\0\0\x08\0", "0 dimensions"),
    "inside the header": (GOOD[:12], "names 3 dimensions and holds 2 of them$"),
    "short": (GOOD[:-1], "promises 12 .* holds 11"),
    "trailing bytes": (GOOD + b"\0", "promises 12 .* holds more"),
    "no values": (idx_bytes(np.zeros((0, 28, 28), dtype=np.uint8)), "promises 0"),
    "claims more than any memory": (b"\0\0\x08\x03" + b"\xff" * 12, "promises"),
    "truncated gzip": (gzip.compress(GOOD)[:-9], "end-of-stream"),
    "damaged gzip": (gzip.compress(GOOD)[:-8] + b"\0" * 8, "CRC"),
    "gzip of something else": (gzip.compress(b"<html></html>"), "magic number"),
}


@pytest.mark.parametrize(("content", "fault"), FAULTS.values(), ids=FAULTS.keys())
def test_read_idx_names_the_file_and_the_fault(tmp_path, content, fault):
    path = tmp_path / "train-images-idx3-ubyte"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=rf"train-images-idx3-ubyte is not a sound IDX file: .*{fault}"):
        read_idx(path)


def test_read_idx_of_a_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere"):
        read_idx(tmp_path / "nowhere")


@pytest.mark.parametrize("gz", [False, True])
@pytest.mark.parametrize("dot", [False, True])
@pytest.mark.parametrize("place", [".", "MNIST/raw"])
def test_load_mnist_finds_every_form_of_the_files(tmp_path, images, no_download, gz, dot, place):
    write_small_mnist(tmp_path / place, images, dot, gz)
    mnist = load_mnist(tmp_path)
    assert mnist.train_images.shape == (5, 784) and mnist.train_images.dtype == torch.float32
    assert mnist.test_labels.tolist() == [0, 1] and mnist.test_labels.dtype == torch.int64
    np.testing.assert_array_equal(mnist.train_images.numpy().reshape(5, 28, 28), images.astype(np.float32) / 255)
    assert torch.equal(mnist.test_images, mnist.train_images[:2])


def test_load_mnist_passes_over_a_folder_of_that_name(tmp_path, images, no_download):
    write_small_mnist(tmp_path, images, dot=True)
    (tmp_path / "train-images-idx3-ubyte").mkdir()
    assert len(load_mnist(tmp_path).train_images) == 5


def test_load_mnist_reads_a_read_only_folder_and_writes_nothing(tmp_path, no_download):
    root = tmp_path / "data"
    shutil.copytree(DATA / "MNIST", root / "MNIST")
    before = sorted(root.rglob("*"))
    for path in [*before, root]:
        path.chmod(stat.S_IRUSR | (stat.S_IXUSR if path.is_dir() else 0))
    try:
        mnist = load_mnist(root)
        assert sorted(root.rglob("*")) == before
    finally:
        for path in [root, *before]:
            path.chmod(stat.S_IRWXU)
    assert [len(t) for t in mnist] == [60000, 60000, 10000, 10000]


def test_the_shipped_files_are_the_originals():
    for name, md5 in datasets.MNIST.resources:
        assert hashlib.md5((DATA / "MNIST" / "raw" / name).read_bytes()).hexdigest() == md5


def test_the_shipped_files_hold_mnist():
    mnist = load_mnist(DATA, download=False)
    assert mnist.train_images.shape == (60000, 784) and mnist.test_images.shape == (10000, 784)
    assert mnist.train_labels[:5].tolist() == [5, 0, 4, 1, 9]
    assert torch.bincount(mnist.test_labels).tolist() == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
    # The grey level's mean that every MNIST tutorial normalises by.
    assert mnist.train_images.mean().item() == pytest.approx(0.1307, abs=5e-5)


@pytest.mark.parametrize("download", [False, True])
def test_load_mnist_without_files_or_network_says_where_it_looked(tmp_path, no_download, download):
    with pytest.raises(FileNotFoundError) as caught:
        load_mnist(tmp_path, download=download)
    message = str(caught.value)
    assert message.startswith("No MNIST here: ")
    assert str(tmp_path / "MNIST" / "raw") in message and "train-images-idx3-ubyte" in message
    assert "root" in message and ("download failed" if download else "download=True") in message


@pytest.mark.parametrize("variant", ["MNIST", "FashionMNIST", "KMNIST"])
def test_load_mnist_downloads_what_is_missing_into_root(tmp_path, images, monkeypatch, variant):
    def fetch(self):
        assert type(self).__name__ == variant
        write_small_mnist(Path(self.raw_folder), images)

    monkeypatch.setattr(datasets.MNIST, "download", fetch)
    monkeypatch.setattr(datasets.MNIST, "_load_data", lambda self: ([], []))
    assert len(load_mnist(tmp_path, variant=variant).train_images) == 5
    assert len(list((tmp_path / variant / "raw").iterdir())) == 4


def test_load_mnist_when_the_download_ends_and_brings_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.MNIST, "download", lambda self: None)
    monkeypatch.setattr(datasets.MNIST, "_check_exists", lambda self: True)  # torchvision is content with other names
    monkeypatch.setattr(datasets.MNIST, "_load_data", lambda self: ([], []))
    with pytest.raises(
        FileNotFoundError, match=r"^No KMNIST here: .*gz; the download did not bring them\. Put"
    ) as caught:
        load_mnist(tmp_path, variant="KMNIST")
    assert str(tmp_path / "KMNIST" / "raw") in str(caught.value)


def test_load_mnist_into_an_unwritable_place(tmp_path, monkeypatch):
    def unwritable(path, *args, **kwargs):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(os, "makedirs", unwritable)  # chmod would not stop root, as whom containers run
    with pytest.raises(FileNotFoundError, match=r"download failed .*Permission denied"):
        load_mnist(tmp_path)


def test_load_mnist_when_the_connection_breaks_off(tmp_path, monkeypatch):
    def break_off(self):
        raise IncompleteRead(b"half of it")

    monkeypatch.setattr(datasets.MNIST, "download", break_off)
    with pytest.raises(FileNotFoundError, match="download failed"):
        load_mnist(tmp_path)


def test_load_mnist_refuses_an_unknown_variant(tmp_path):
    with pytest.raises(ValueError, match=r"^variant must be one of MNIST, FashionMNIST, KMNIST, not 'EMNIST'$"):
        load_mnist(tmp_path, variant="EMNIST")


@pytest.mark.parametrize("labels", [np.arange(4, dtype=np.uint8), np.array([0, 1, 2, 3, 10], dtype=np.uint8)])
def test_load_mnist_refuses_labels_that_do_not_fit_the_images(tmp_path, images, labels):
    write_small_mnist(tmp_path, images)
    (tmp_path / "train-labels-idx1-ubyte").write_bytes(idx_bytes(labels))
    with pytest.raises(ValueError, match="do not belong together"):
        load_mnist(tmp_path)


@pytest.mark.parametrize("variant", ["MNIST", "FashionMNIST", "KMNIST"])
def test_load_mnist_keeps_the_variants_apart(tmp_path, images, no_download, variant):
    for level, name in enumerate(["MNIST", "FashionMNIST", "KMNIST"]):
        write_small_mnist(tmp_path / name / "raw", np.full_like(images, 51 * level))
    level = ["MNIST", "FashionMNIST", "KMNIST"].index(variant)
    assert (load_mnist(tmp_path, variant=variant).train_images == torch.tensor(51 * level / 255)).all()


def test_load_mnist_refuses_images_of_another_size(tmp_path):
    write_small_mnist(tmp_path, np.zeros((5, 28, 27), dtype=np.uint8))
    with pytest.raises(ValueError, match=r"ubyte do not belong together: wanted .* found \(5, 28, 27\)") as caught:
        load_mnist(tmp_path)
    files = [str(tmp_path / f"{stem}-ubyte") for stem in ("train-images-idx3", "train-labels-idx1")]
    assert str(caught.value).startswith(", ".join(files))


def test_load_mnist_looks_into_the_folder_data_if_none_is_named(tmp_path, images, no_download, monkeypatch):
    write_small_mnist(tmp_path / "data", images)
    monkeypatch.chdir(tmp_path)
    assert len(load_mnist().train_images) == 5


LAYOUTS = ["{slug}", "datasets/someone/{slug}", "competitions/{slug}"]


@pytest.mark.parametrize("gz", [False, True])
@pytest.mark.parametrize("dot", [False, True])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_kaggle_every_layout_and_every_form_is_found(tmp_path, images, no_download, kaggle, layout, dot, gz):
    write_small_mnist(kaggle / layout.format(slug="mnist-dataset"), images, dot, gz)
    mnist = load_mnist(tmp_path / "data")
    np.testing.assert_array_equal(mnist.train_images.numpy().reshape(5, 28, 28), images.astype(np.float32) / 255)
    assert mnist.test_labels.tolist() == [0, 1]


@pytest.mark.parametrize("plain_beside", [False, True])
def test_kaggle_folders_with_the_files_names_are_walked_through(tmp_path, images, no_download, kaggle, plain_beside):
    """Kaggle unpacks an uploaded NAME.gz into a folder NAME that holds a file NAME."""
    dataset = kaggle / "mnist-dataset"
    write_small_mnist(dataset, images, dot=True)
    for path in sorted(dataset.iterdir()):
        folder = dataset / path.name.replace(".", "-")
        folder.mkdir()
        shutil.copy(path, folder / folder.name)
        if not plain_beside:
            path.unlink()
    assert len(load_mnist(tmp_path / "data").train_images) == 5


def test_the_four_files_come_from_one_dataset(tmp_path, images, no_download, kaggle):
    """Of two datasets the first has no labels; nothing is put together from both."""
    write_small_mnist(kaggle / "a-part-of-mnist", np.zeros_like(images))
    for path in (kaggle / "a-part-of-mnist").glob("*labels*"):
        path.unlink()
    write_small_mnist(kaggle / "the-whole-mnist", images)
    assert torch.equal(load_mnist(tmp_path).train_images, torch.from_numpy(images / np.float32(255)).flatten(1))


def test_root_comes_before_kaggle_and_kaggle_before_the_network(tmp_path, images, monkeypatch, kaggle):
    monkeypatch.setattr(datasets.MNIST, "download", lambda self: pytest.fail("downloads what lies in /kaggle/input"))
    write_small_mnist(kaggle / "mnist-dataset", images)
    assert load_mnist(tmp_path / "data").train_images.max() > 0
    write_small_mnist(tmp_path / "data", np.zeros_like(images))
    assert load_mnist(tmp_path / "data").train_images.max() == 0


# Slugs as Kaggle's users choose them; the file names in all of these datasets are the same.
SLUGS = [
    {"MNIST": "mnist-dataset", "FashionMNIST": "Fashion-MNIST", "KMNIST": "kuzushiji"},
    {"MNIST": "hojjatk-mnist", "FashionMNIST": "fashionmnist", "KMNIST": "KMNIST"},
]


@pytest.mark.parametrize("slugs", SLUGS)
@pytest.mark.parametrize("variant", ["MNIST", "FashionMNIST", "KMNIST"])
def test_kaggle_never_takes_one_variant_for_another(tmp_path, images, no_download, kaggle, variant, slugs):
    for level, slug in enumerate(slugs.values()):
        write_small_mnist(kaggle / "datasets" / "someone" / slug, np.full_like(images, 51 * level))
    level = list(slugs).index(variant)
    assert (load_mnist(tmp_path, variant=variant).train_images == torch.tensor(51 * level / 255)).all()
    shutil.rmtree(kaggle / "datasets" / "someone" / slugs[variant])
    with pytest.raises(FileNotFoundError, match=f"no complete {variant}"):
        load_mnist(tmp_path, variant=variant)


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


@pytest.mark.parametrize(("damage", "fault"), CSV_FAULTS.values(), ids=CSV_FAULTS.keys())
def test_a_damaged_csv_file_is_named_with_its_fault(tmp_path, no_download, small_csv, damage, fault):
    path = small_csv / "mnist_train.csv"
    path.write_text(damage(path.read_text(encoding="ascii")), encoding="ascii")
    with pytest.raises(ValueError, match=rf"mnist_train\.csv is not a sound CSV file of MNIST: .*{fault}"):
        load_mnist(tmp_path)


def test_the_rows_that_a_csv_file_must_have_are_those_of_the_split():
    assert vae_utils.CSV_ROWS == {"mnist_train.csv": 60000, "mnist_test.csv": 10000}


@pytest.mark.parametrize("download", [False, True])
def test_the_competition_alone_is_not_enough_and_the_error_says_why(tmp_path, no_download, kaggle, download):
    folder = kaggle / "competitions" / "digit-recognizer"
    folder.mkdir(parents=True)
    for name in ("train.csv", "test.csv", "sample_submission.csv"):
        (folder / name).write_text("label,pixel0\n1,0\n", encoding="ascii")
    with pytest.raises(FileNotFoundError, match=r"^No MNIST here: .*digit-recognizer does not hold it: .*42,000.*no"):
        load_mnist(tmp_path, download=download)


def test_the_default_place_is_the_one_where_kaggle_mounts_data():
    source = Path(vae_utils.__file__).read_text(encoding="utf-8")
    assert '\nKAGGLE_INPUT = Path("/kaggle/input")' in source


def test_class_names_are_ten_for_each_variant():
    assert class_names() == ("0", "1", "2", "3", "4", "5", "6", "7", "8", "9")
    assert class_names("FashionMNIST")[:2] == ("T-shirt/top", "Trouser") and class_names("KMNIST")[0] == "o"
    assert all(len(class_names(variant)) == 10 for variant in vae_utils.VARIANTS)
    with pytest.raises(ValueError, match=r"^variant must be one of MNIST, FashionMNIST, KMNIST, not 'EMNIST'$"):
        class_names("EMNIST")


def test_binarize_draws_each_grey_level_with_its_probability():
    levels = torch.linspace(0, 1, 784).expand(4000, 784)
    draws = binarize(levels, generator=torch.Generator().manual_seed(0))
    assert set(draws.unique().tolist()) == {0.0, 1.0}
    standard_error = (levels[0] * (1 - levels[0]) / 4000).sqrt()
    assert ((draws.mean(0) - levels[0]).abs() <= 5 * standard_error).all()  # exactly 0 at the levels 0 and 1
    assert not torch.equal(draws[0], draws[1])


def test_binarize_follows_its_generator():
    grey = torch.full((2, 784), 0.5)
    first, second, third = (binarize(grey, generator=torch.Generator().manual_seed(seed)) for seed in (1, 1, 2))
    assert torch.equal(first, second) and not torch.equal(first, third)


@pytest.mark.parametrize(
    ("images", "error", "words"),
    [
        (torch.full((2, 784), 255.0), ValueError, "from 0 to 1.*255"),
        (torch.full((2, 784), -0.1), ValueError, "from 0 to 1.*-0.1"),
        (torch.full((2, 784), float("nan")), ValueError, "from 0 to 1.*nan"),
        (torch.zeros(2, 28, 28), ValueError, r"\(B, 784\).*\(2, 28, 28\)"),
        (torch.zeros(0, 784), ValueError, r"\(0, 784\)"),
        (torch.zeros(2, 784, dtype=torch.uint8), TypeError, "uint8"),
        (np.zeros((2, 784)), TypeError, "ndarray"),
    ],
)
def test_images_that_are_none_are_refused(images, error, words):
    with pytest.raises(error, match=words):
        binarize(images)
