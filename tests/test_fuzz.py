"""Fuzz: files that chance has damaged give what an independent reader finds in them, or ValueError; nothing else.

The normal run tries 500 mutants of each format; `pytest -m slow` tries 20,000. Memory is measured while they are read.
"""

import gzip
import math
import random
import struct
import tracemalloc
import zlib

import numpy as np
import pytest

import vae_utils
from vae_utils import IDX_LIMIT, read_idx

MANY = [500, pytest.param(20_000, marks=pytest.mark.slow)]
MEGABYTE = 1 << 20

INTERESTING = [b"\0", b"\xff", b"\x7f", b"\x80", b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", b"\x80\0\0\0", b"\0\0\0\0"]
WORDS = [*rb""", - . 1e2 256 nan " # 0x1 99999999999""".split(), b"\n", b"\r\n", b" ", b"\xef\xbb\xbf"]


def mutate(content: bytes, draw: random.Random, words: list[bytes]) -> bytes:
    """One to three changes: bits, bytes, insertions, deletions, copies, cuts."""
    data = bytearray(content)
    for _ in range(draw.randint(1, 3)):
        at = draw.randrange(len(data) + 1) if draw.random() < 0.5 else draw.randrange(min(len(data), 24) + 1)
        length = draw.randint(1, 8)
        kind = draw.randrange(6)
        if kind == 0 and at < len(data):
            data[at] ^= 1 << draw.randrange(8)
        elif kind == 1:
            word = draw.choice(words)
            data[at : at + len(word)] = word
        elif kind == 2:
            data[at:at] = draw.choice(words)
        elif kind == 3:
            del data[at : at + length]
        elif kind == 4:
            data[at:at] = data[:length]
        else:
            del data[at:]
    return bytes(data)


def plain_bytes(content: bytes) -> bytes | None:
    """What is in the file: as it stands, or unpacked by zlib itself; None if that finds a fault."""
    if content[:2] != b"\x1f\x8b":
        return content
    whole = b""
    while content:
        unpacker = zlib.decompressobj(wbits=31)
        try:
            whole += unpacker.decompress(content)
        except zlib.error:
            return None
        if not unpacker.eof:
            return None
        content = unpacker.unused_data.lstrip(b"\0")  # gzip pads with zeros
    return whole


def idx_by_hand(content: bytes) -> np.ndarray | None:
    """The array of a sound IDX file of bytes, or None."""
    data = plain_bytes(content) or b""
    if len(data) < 4 or data[:3] != b"\0\0\x08" or not 1 <= data[3] <= 64 or len(data) < 4 + 4 * data[3]:
        return None
    shape = struct.unpack_from(f">{data[3]}I", data, 4)
    values = list(data[4 + 4 * data[3] :])
    return np.array(values, dtype=np.uint8).reshape(shape) if math.prod(shape) == len(values) > 0 else None


def csv_by_hand(content: bytes, rows: int) -> list[list[float]] | None:
    """The table of a sound CSV file, without its header, or None."""
    try:
        lines = content.decode("utf-8").replace("\r\n", "\n").removesuffix("\n").split("\n")[1:]
        table = [[float(cell) for cell in line.split(",")] for line in lines]
    except ValueError:
        return None
    fits = len(table) == rows and all(len(row) == 785 for row in table)
    return table if fits and all(number in range(256) for row in table for number in row) else None


def measured(read, path):
    """What `read` returns, or None if it raises ValueError naming the file, and the peak of memory on the way."""
    tracemalloc.start()
    try:
        result = read(path)
    except ValueError as error:
        assert str(path) in str(error)
        result = None
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return result, peak


@pytest.mark.parametrize("count", MANY)
@pytest.mark.parametrize("compress", [bytes, lambda content: gzip.compress(content, mtime=0)], ids=["plain", "gz"])
def test_mutated_idx_files(tmp_path, compress, count):
    draw = random.Random(0)
    images = np.random.default_rng(0).integers(0, 256, (2, 5, 5), dtype=np.uint8)
    sound = struct.pack(">BBBB3I", 0, 0, 8, 3, *images.shape) + images.tobytes()
    path, read = tmp_path / "images", 0
    for _ in range(count):
        # Half of the gzipped ones are damaged before they are packed, so that the damage lies behind a sound checksum.
        inside = draw.random() < 0.5
        content = compress(mutate(sound, draw, INTERESTING)) if inside else mutate(compress(sound), draw, INTERESTING)
        path.unlink(missing_ok=True)  # some file systems wait for the disk when a file is written over
        path.write_bytes(content)
        found, peak = measured(read_idx, path)
        expected = idx_by_hand(content)
        assert peak < 2 * IDX_LIMIT + 4 * MEGABYTE, (peak, content)
        assert expected is None or found is not None, content
        if found is not None and expected is not None:
            np.testing.assert_array_equal(found, expected)
        elif found is not None:  # zlib minds damage in gzip's own header; the checksum says if the values are right
            inside = struct.pack(f">BBBB{found.ndim}I", 0, 0, 8, found.ndim, *found.shape) + found.tobytes()
            assert struct.pack("<2I", zlib.crc32(inside), len(inside)) in content
        read += found is not None
    assert count // 50 < read < count  # some were read, and some refused


@pytest.mark.parametrize("compress", [bytes, gzip.compress], ids=["plain", "gz"])
def test_a_header_that_claims_too_much_costs_nothing_and_another_no_more_than_it_claims(tmp_path, compress):
    path = tmp_path / "images"
    for claim, most in ((IDX_LIMIT // 784, IDX_LIMIT), (IDX_LIMIT // 784 + 1, 0), (2**31, 0), (2**32 - 1, 0)):
        path.write_bytes(compress(struct.pack(">BBBB3I", 0, 0, 8, 3, claim, 28, 28) + bytes(100)))
        found, peak = measured(read_idx, path)
        assert found is None and peak < 2 * most + 4 * MEGABYTE


def test_a_gzip_bomb_is_read_no_further_than_its_header_promises(tmp_path):
    path = tmp_path / "images.gz"
    header = struct.pack(">BBBB3I", 0, 0, 8, 3, 1, 28, 28)
    path.write_bytes(gzip.compress(header + bytes(300 * MEGABYTE), compresslevel=1))
    found, peak = measured(read_idx, path)
    assert path.stat().st_size < 2 * MEGABYTE and found is None and peak < 8 * MEGABYTE


@pytest.mark.parametrize("count", MANY)
def test_mutated_csv_files(tmp_path, monkeypatch, count):
    draw = random.Random(0)
    monkeypatch.setattr(vae_utils, "CSV_ROWS", {"mnist_test.csv": 2})
    table = np.random.default_rng(0).integers(0, 256, (2, 785))
    sound = b"label" + b",p" * 784 + b"\n" + b"".join(b",".join(b"%d" % n for n in row) + b"\n" for row in table)
    path, read = tmp_path / "mnist_test.csv", 0
    for _ in range(count):
        content = mutate(sound, draw, WORDS)
        path.unlink(missing_ok=True)  # some file systems wait for the disk when a file is written over
        path.write_bytes(content)
        found, peak = measured(vae_utils._read_csv, path)
        assert peak < 4 * MEGABYTE
        if found is not None:
            images, labels = found
            assert np.column_stack([labels, images.reshape(2, -1)]).tolist() == csv_by_hand(content, 2), content
            read += 1
    assert count // 50 < read < count
