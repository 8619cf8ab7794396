"""Does the memory of `estimate_log_likelihood` grow with K? Its peak, measured in a fresh process for each K.

    python benchmarks/memory.py [--num-samples 10 5000] [--images 1000] [--json FILE]

The peak is that of the whole process, Python, PyTorch and MNIST included; what counts is that it is the same.
Linux and macOS only: Windows has no `resource`.
"""

import argparse
import json
import multiprocessing
import resource
import sys
from pathlib import Path

import torch
from common import machine, split_images

from vae_utils import conv_vae, estimate_log_likelihood


def peak_megabytes(num_samples: int, images: int, queue) -> None:
    torch.manual_seed(0)
    _, measured = split_images("held-out")
    estimate_log_likelihood(conv_vae(), measured[:images], num_samples=num_samples, progress=True)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    queue.put(peak / (1024**2 if sys.platform == "darwin" else 1024))  # macOS counts bytes, Linux kilobytes


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--num-samples", type=int, nargs="+", default=[10, 5000])
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    options = parser.parse_args()
    context = multiprocessing.get_context("spawn")  # a fresh process has a peak of its own
    rows = []
    for num_samples in options.num_samples:
        queue = context.Queue()
        process = context.Process(target=peak_megabytes, args=(num_samples, options.images, queue))
        process.start()
        rows.append({"num_samples": num_samples, "images": options.images, "peak_megabytes": round(queue.get())})
        process.join()
        print(f"K = {num_samples:>6,}: peak {rows[-1]['peak_megabytes']:,} MB")
    if options.json:
        options.json.write_text(json.dumps({**machine(), "runs": rows}, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
