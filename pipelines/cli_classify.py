"""The command ``satclip classify``."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from pipelines.cli_dataset import add_root
from pipelines.cli_embed import MAX_THREADS
from pipelines.errors import ArtefactError, ConfigurationError
from pipelines.workspace import workspace_root

if TYPE_CHECKING:
    Commands = argparse._SubParsersAction[argparse.ArgumentParser]


def add_classify_command(commands: "Commands") -> None:
    """Adds ``classify`` to the parser of ``satclip``."""
    parser = commands.add_parser("classify", help="ground cover of every pixel of a Sentinel-2 scene")
    parser.add_argument("scene", type=Path, help="GeoTIFF of 12 bands, or a folder with a file per band")
    parser.add_argument("--out", type=Path, required=True, help="GeoTIFF to write; probabilities come beside it")
    parser.add_argument("--model", type=Path, default=None, help="ground-cover checkpoint; default the workspace's")
    parser.add_argument(
        "--classes",
        nargs="+",
        default=[],
        metavar="CLASS",
        help="a mapping by name or YAML file; or classes as NAME or 'NAME: DESCRIPTION'; default those of training",
    )
    parser.add_argument("--by", choices=("auto", "learned", "text"), default="auto", help="embeddings of the classes")
    parser.add_argument(
        "--window", type=int, default=0, help="side of a window in pixels; default the encoder's, or 64"
    )
    parser.add_argument("--stride", type=int, default=0, help="step between windows; default an eighth of the side")
    parser.add_argument("--shift", type=int, nargs=2, default=(0, 0), metavar=("ROWS", "COLUMNS"), help="of the grid")
    parser.add_argument(
        "--offset", type=int, choices=(0, -1000), default=0, help="added to digital numbers; -1000 from 04.00 on"
    )
    parser.add_argument("--device", choices=("auto", "cuda", "cpu"), default="auto", help="where the model runs")
    parser.add_argument("--threads", type=int, default=None, help="threads to compute with; default one per core")
    add_root(parser)
    parser.set_defaults(run=_classify)


def _classify(options: argparse.Namespace) -> int:
    from pipelines.features.encoding import choose_device
    from pipelines.ground_cover.classification import ClassifyConfig, classify_scene
    from pipelines.ground_cover.training import open_ground_cover_run

    if options.out.suffix not in (".tif", ".tiff"):
        raise ConfigurationError(f"--out is {options.out}; expected a name that ends in .tif")
    if options.threads is not None and not 1 <= options.threads <= MAX_THREADS:
        raise ConfigurationError(f"--threads is {options.threads}; expected 1 to {MAX_THREADS}")
    checkpoint = options.model or open_ground_cover_run(workspace_root(options.root)).checkpoint_path
    config = ClassifyConfig(
        window_px=options.window,
        stride_px=options.stride,
        shift_px=tuple(options.shift),
        boa_add_offset=options.offset,
        source=options.by,
    )
    device = str(choose_device(options.device))
    try:
        done = classify_scene(options.scene, checkpoint, options.out, options.classes, config, device, options.threads)
    except OSError as error:
        raise ArtefactError(f"{options.out}: cannot be written ({error.strerror or error})") from error
    for name, share in sorted(done.shares.items(), key=lambda each: -each[1]):
        print(f"{share:8.2%}  {name}")
    print(f"classified  {done.num_windows} windows in {done.seconds:.1f} s: {done.path}, {done.probabilities_path}")
    return 0
