"""Pictures of one's own: folders and arrays become the module's tensors, and a photo of a digit looks like MNIST's."""

import gc
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw
from torch.utils.data import DataLoader, Dataset, TensorDataset

from vae_utils import digit_from, images_from, load_mnist

STROKE = [(80, 120), (105, 75), (150, 60), (195, 80), (205, 130), (180, 190), (120, 260), (70, 320), (230, 320)]
RANDOM = np.random.default_rng(0)
GREY = torch.linspace(0, 1, 2 * 28 * 28).view(2, 28, 28)


def drawing(paper="white", ink="black", mode="L", width=26, gap=0):
    picture = Image.new(mode, (300, 400), paper)
    ImageDraw.Draw(picture).line(STROKE, fill=ink, width=width, joint="curve")
    ImageDraw.Draw(picture).line([(60, 260), (240, 260)], fill=paper, width=gap)
    return picture


def shaded(picture, low, noise=0.0):
    """The picture in light that falls from full to `low` over its height, with the noise of a camera."""
    grey = np.asarray(picture.convert("L")) * np.linspace(low, 1, 400)[:, None] + RANDOM.normal(0, noise, (400, 300))
    return Image.fromarray(grey.clip(0, 255).astype(np.uint8))


def with_specks(picture):
    for place in RANDOM.integers(5, 290, (6, 2)).tolist():
        ImageDraw.Draw(picture).ellipse((*place, place[0] + 5, place[1] + 5), fill="black")
    return picture


DIGITS = {
    "with specks": with_specks(drawing()), "white on black": drawing("black", "white"),
    "transparent": drawing((0, 0, 0, 0), (0, 0, 0, 255), "RGBA"), "blue on yellow": drawing("khaki", "navy", "RGB"),
    "pencil": drawing(210, 160), "in a shadow": shaded(drawing(), 0.4),
    "noisy": shaded(drawing(220, 40), 0.8, noise=8), "small": drawing().resize((30, 40)),
    "large margins": Image.fromarray(np.pad(np.asarray(drawing()), 300, constant_values=255)),
    "thin pencil": drawing(210, 160, width=6), "hair": drawing(width=2), "two strokes": drawing(gap=22),
    "16 bits": Image.fromarray(257 * np.asarray(drawing()).astype(np.uint16)), "array": np.asarray(drawing()),
    "colours": np.asarray(drawing("khaki", "navy", "RGB")), "tensor": torch.tensor(np.array(drawing()) / 255),
}  # fmt: skip
WHITE = drawing(ink="white")
BLANKS = [WHITE, drawing("black", "black"), shaded(WHITE, 0.4), with_specks(WHITE.copy())]
BLANKS.append(Image.fromarray(np.pad(np.zeros((380, 280), dtype=np.uint8), 10, constant_values=255)))  # a dark sheet


@pytest.mark.parametrize("kind", DIGITS)
def test_a_digit_looks_like_mnists_however_it_was_photographed(kind):
    image = digit_from(DIGITS[kind])
    assert image.shape == (1, 784) and image.dtype == torch.float32 and image.min() >= 0 and 0.9 < image.max() <= 1
    assert 50 < (image > 0.5).sum() < 80  # neither a hair nor a blot
    assert np.corrcoef(image[0], digit_from(drawing())[0])[0, 1] > 0.9


def test_mnists_own_digits_come_back():
    """At their size and place: moved by half a pixel they would be alike by 0.89 at most."""
    alike = []
    for image in load_mnist(Path(__file__).parent.parent / "data", download=False).test_images[:100]:
        picture = Image.fromarray((255 * image.view(28, 28)).byte().numpy())
        alike.append(np.corrcoef(digit_from(picture)[0], image)[0, 1])
    assert np.median(alike) > 0.95


@pytest.mark.parametrize("blank", BLANKS)
def test_a_blank_sheet_is_refused_in_a_sentence(blank):
    with pytest.raises(ValueError, match="no digit was found"):
        digit_from(blank)


def test_two_digits_are_refused_and_one_of_two_strokes_is_not():
    """Of MNIST's digits: two that are 6 pixels apart, side by side, and one that has lost a row of 2 pixels."""
    digits = load_mnist(Path(__file__).parent.parent / "data", download=False).test_images[:30].view(-1, 28, 28)
    for first, second in zip(digits[::2], digits[1::2], strict=True):
        inked = [digit[:, digit.amax(0) > 0.4] for digit in (first, second)]
        both = torch.cat([torch.zeros(28, 4), inked[0], torch.zeros(28, 6), inked[1], torch.zeros(28, 4)], dim=1)
        with pytest.raises(ValueError, match="more than one digit"):
            digit_from(both.repeat_interleave(5, 0).repeat_interleave(5, 1))
        broken = first.clone()
        broken[14:16] = 0
        digit_from(broken.repeat_interleave(5, 0).repeat_interleave(5, 1))


class Items(Dataset):
    """Pictures of PIL's with their labels, as of torchvision, and no end that an index would tell."""

    def __len__(self):
        return 2

    def __getitem__(self, index):
        return Image.fromarray((255 * GREY[index % 2]).round().byte().numpy()), 3


ARRAYS = {
    "(N, H, W)": GREY, "(N, H, W, 1)": GREY[..., None], "(N, 1, H, W)": GREY[:, None], "(N, D)": GREY.flatten(1),
    "(N, H, W, 3)": GREY.numpy()[..., None].repeat(3, axis=-1), "(N, 3, H, W)": GREY[:, None].expand(-1, 3, -1, -1),
    "list": list(GREY), "PIL": [item[0] for item in map(Items().__getitem__, range(2))], "Dataset": Items(),
    "loader": DataLoader(GREY, 1), "with labels": DataLoader(TensorDataset(GREY[:, None], torch.arange(2)), 2),
    "bytes": (255 * GREY).round().byte(),
}  # fmt: skip


@pytest.mark.parametrize("kind", ARRAYS)
def test_arrays_of_every_shape_and_range_give_the_same(kind):
    torch.testing.assert_close(images_from(ARRAYS[kind]), GREY.flatten(1), rtol=0, atol=0.003)  # and of one dtype


def test_colours_follow_each_other_grey_is_repeated_and_fine_lines_are_averaged():
    red = torch.tensor([1.0, 0.0, 0.0]).expand(1, 4, 4, 3)
    assert images_from(red, side=4, colors=3).tolist() == [16 * [1.0] + 32 * [0.0]]
    assert images_from(GREY, colors=3).equal(GREY.flatten(1).repeat(1, 3))
    torch.testing.assert_close(images_from(red, side=4), torch.full((1, 16), 1 / 3))
    assert images_from(torch.tensor([1.0, 0.0, 0.0, 0.0]).repeat(1, 112, 28)).mean() == pytest.approx(0.25, abs=0.02)


def test_whole_numbers_are_of_0_and_1_if_all_are_and_else_of_255():
    binary = (GREY > 0.5).int()
    assert images_from(binary).equal(binary.flatten(1).float()) and images_from(DataLoader(binary, 1)).max() == 1
    for whites in ([1, 255], [255, 1]):  # the dark picture, first or last, would be of 0 and 1 by itself
        loader = DataLoader(torch.stack([white * binary[1] for white in whites]), 1)
        torch.testing.assert_close(images_from(loader).amax(1), torch.tensor(whites) / 255)


def test_every_format_that_pil_reads_is_read_and_no_file_left_open(tmp_path):
    half = np.full((40, 40), 128, dtype=np.uint8)
    for name in ("a.png", "b.gif", "c.webp", "d.BMP"):
        Image.fromarray(half).save(tmp_path / name)
    Image.fromarray(257 * half.astype(np.uint16)).save(tmp_path / "16 bits.png")
    Image.fromarray(257 * half.astype(np.int32)).save(tmp_path / "16 of 32 bits.tif")
    Image.fromarray(np.float32(half / 255)).save(tmp_path / "numbers.tif")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torch.testing.assert_close(images_from(tmp_path), torch.full((7, 784), 128 / 255), rtol=0, atol=1 / 255)
        assert images_from(tmp_path / "a.png").equal(images_from(Image.fromarray(half)))
        with pytest.raises(ValueError, match="no digit"):
            digit_from(tmp_path / "a.png")
        gc.collect()
    assert [str(warning.message) for warning in caught] == []


def test_a_large_photo_gives_what_its_array_gives(tmp_path):
    """Though it is made smaller before it becomes an array of floats, sixteen times as large."""
    photo = Image.fromarray(RANDOM.integers(0, 256, (60, 80, 3), dtype=np.uint8)).resize((1600, 1200))
    photo.save(tmp_path / "photo.png")
    torch.testing.assert_close(
        images_from(tmp_path, colors=3), images_from([np.asarray(photo)], colors=3), rtol=0, atol=0.03
    )


def test_a_folder_is_read_in_order_scaled_and_told_about_in_one_line(tmp_path, capsys):
    (tmp_path / "b").mkdir()
    on_its_side = Image.Exif()
    on_its_side[0x0112] = 6  # the tag of the orientation
    Image.new("L", (397, 267), 255).save(tmp_path / "b" / "2.JPG", exif=on_its_side)
    Image.new("RGBA", (10, 10), (0, 0, 0, 0)).save(tmp_path / "b" / "3.png")
    Image.new("L", (28, 28), 0).save(tmp_path / "a.jpeg")
    (tmp_path / "broken.png").write_bytes(b"no picture")
    (tmp_path / "notes.txt").write_text("no picture either")
    images = images_from(tmp_path)
    torch.testing.assert_close(images.mean(1), torch.tensor([0.0, 1.0, 1.0]))
    assert images.max() == 1  # 1.0000001, as rounding has it, would be refused by `fit`
    (line,) = capsys.readouterr().out.splitlines()
    assert all(part in line for part in ("pictures: 3", "28 x 28", "397 x 267", "not read 2: broken.png, notes.txt"))
    assert images_from(tmp_path, invert=True).equal(1 - images)
    assert "inverted" in capsys.readouterr().out


def test_what_cannot_be_used_is_refused_in_a_sentence(tmp_path):
    with pytest.raises(FileNotFoundError, match="no folder"):
        images_from(tmp_path / "nowhere")
    with pytest.raises(ValueError, match="no picture that can be read; tried: no file"):
        images_from(tmp_path)
    one_in_colour, with_labels = torch.rand(30, 40, 3), torch.rand(9, 785)
    for wrong in (
        GREY + 300,
        GREY * torch.nan,
        GREY[0],
        GREY[:, None].expand(-1, 2, -1, -1),
        one_in_colour,
        with_labels,
    ):
        with pytest.raises(ValueError, match="pictures must be"):
            images_from(wrong)
    for wrong, name in ((None, "NoneType"), (DataLoader([{"image": GREY[0]}]), "dict"), ([{"image": GREY[0]}], "dict")):
        with pytest.raises(TypeError, match=f"pictures must be .* {name}$"):
            images_from(wrong)
    with pytest.raises(TypeError, match=r"pictures must be .* NoneType$"):
        digit_from(None)
