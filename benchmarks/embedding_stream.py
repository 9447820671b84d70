"""Resident memory, time and file size of `satclip embed` on a table of random points, beside the encoder alone.

The command runs in a process of its own, on an untrained location encoder with 256 outputs; its highest resident memory
is what the kernel counted. Points go in as CSV or Parquet and come out as GeoParquet, both below --folder.

    python benchmarks/embedding_stream.py [--check] [--points N] [--num-degrees L] [--dtype T] [--store T]
        [--input csv|parquet] [--threads T] [--folder PATH]

The encoder alone encodes the same points, held in memory, in batches as large, in this process after the command.

Prints a table, then one JSON line per measure; with ``--check`` the exit code is 1 unless every measure holds.
"""

import argparse
import json
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import torch

from pipelines.embeddings.streaming import EmbeddingOptions, open_location_encoder
from satclip_model.checkpoint.safetensors import write_safetensors
from satclip_model.config import LocationEncoderConfig, SphericalHarmonicsConfig
from satclip_model.location_encoder import build_location_encoder

MAX_RESIDENT_GB = 1.5
MIN_SHARE_OF_ENCODER = 0.7
CHUNK = 250_000
COMMAND = "import sys; from pipelines.cli import main; sys.exit(main())"
SCHEMA = pa.schema([("station", pa.int64()), ("lon", pa.float64()), ("lat", pa.float64())])


def random_points(number: int) -> Iterator[pa.Table]:
    rng = np.random.default_rng(0)
    for start in range(0, number, CHUNK):
        size = min(CHUNK, number - start)
        lon_deg = rng.uniform(-180.0, 180.0, size)
        lat_deg = np.degrees(np.arcsin(rng.uniform(-1.0, 1.0, size)))
        yield pa.table([np.arange(start, start + size), lon_deg, lat_deg], schema=SCHEMA)


def write_points(path: Path, number: int) -> None:
    csv = path.suffix == ".csv"
    with pyarrow.csv.CSVWriter(path, SCHEMA) if csv else pq.ParquetWriter(path, SCHEMA) as writer:
        for table in random_points(number):
            writer.write_table(table)


def write_model(folder: Path, num_degrees: int) -> Path:
    config = LocationEncoderConfig(positional_encoding=SphericalHarmonicsConfig(num_degrees=num_degrees))
    path = folder / "model.safetensors"
    write_safetensors(path, build_location_encoder(config, seed=0))
    return path


def encoder_seconds(model: Path, number: int, dtype: str) -> float:
    """Seconds that the encoder alone takes for the same points in batches as large."""
    encoder, _ = open_location_encoder(str(model), "float64" if dtype == "float64" else "float32")
    size = EmbeddingOptions().points_per_batch(encoder)
    seconds = 0.0
    for table in random_points(number):
        lonlat_deg = np.column_stack([table.column("lon").to_numpy(), table.column("lat").to_numpy()])
        started = time.perf_counter()
        for start in range(0, len(lonlat_deg), size):
            encoder.encode(lonlat_deg[start : start + size])
        seconds += time.perf_counter() - started
    return seconds


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--points", type=int, default=10_000_000)
    parser.add_argument("--num-degrees", type=int, default=10)
    parser.add_argument("--dtype", choices=("float32", "float64"), default="float32")
    parser.add_argument("--store", choices=("float32", "float16"), default="float16")
    parser.add_argument("--input", choices=("csv", "parquet"), default="csv")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--folder", type=Path, default=None, help="where files go; default the system's temporary one")
    parser.add_argument("--check", action="store_true", help="exit with 1 when a target is missed")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        folder = Path(name)
        needed = options.points * (60 + 256 * np.dtype(options.store).itemsize)
        if shutil.disk_usage(folder).free < 1.1 * needed:
            sys.exit(f"{folder}: needs {needed / 1e9:.1f} GB of free disk; name another place with --folder")
        model = write_model(folder, options.num_degrees)
        points, out = folder / f"points.{options.input}", folder / "embeddings.parquet"
        write_points(points, options.points)
        arguments = [
            "embed", str(points), "--model", str(model), "--out", str(out),
            "--dtype", options.dtype, "--store", options.store, "--threads", str(options.threads),
        ]  # fmt: skip
        started = time.perf_counter()
        subprocess.run([sys.executable, "-c", COMMAND, *arguments], check=True)
        seconds = time.perf_counter() - started
        resident_gb = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024 / 1e9
        alone = encoder_seconds(model, options.points, options.dtype)
        num_rows, file_gb = pq.read_metadata(out).num_rows, out.stat().st_size / 1e9
    print(
        f"{options.points} points ({options.input}), L = {options.num_degrees}, computed in {options.dtype}, stored as "
        f"{options.store}, {options.threads} threads"
    )
    print(f"{'peak resident memory':<24}{resident_gb:>10.2f} GB")
    print(f"{'time':<24}{seconds:>10.1f} s  ({options.points / seconds:,.0f} points per second)")
    print(f"{'encoder alone':<24}{alone:>10.1f} s  ({options.points / alone:,.0f} points per second)")
    print(f"{'file':<24}{file_gb:>10.2f} GB")
    measures = [
        ("embedding_stream.peak_resident_gb", resident_gb, MAX_RESIDENT_GB, resident_gb < MAX_RESIDENT_GB),
        ("embedding_stream.rows_written", num_rows, options.points, num_rows == options.points),
        (
            "embedding_stream.share_of_encoder_throughput",
            alone / seconds,
            MIN_SHARE_OF_ENCODER,
            alone / seconds >= MIN_SHARE_OF_ENCODER,
        ),
        ("embedding_stream.encoder_points_per_s", options.points / alone, None, True),
        ("embedding_stream.points_per_s", options.points / seconds, None, True),
        ("embedding_stream.file_gb", file_gb, None, True),
    ]
    for metric, value, target, holds in measures:
        print(json.dumps({"metric": metric, "value": value, "target": target, "holds": holds}))
    return 0 if all(holds for *_, holds in measures) or not options.check else 1


if __name__ == "__main__":
    sys.exit(main())
