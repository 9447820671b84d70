"""The commands ``satclip dataset ...``."""

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

from pipelines.errors import ConfigurationError
from pipelines.workspace import workspace_root

if TYPE_CHECKING:
    from pipelines.patches.dataset import DatasetRecord

    Commands = argparse._SubParsersAction[argparse.ArgumentParser]

PRESETS: Final = Path(__file__).resolve().parents[1] / "assets" / "config"


def add_root(parser: argparse.ArgumentParser) -> None:
    """Adds the option that names the workspace."""
    parser.add_argument("--root", type=Path, default=None, help="workspace; default $SATCLIP_ROOT or satclip_data")


def add_dataset_commands(commands: "Commands") -> None:
    """Adds ``dataset`` and its actions to the parser of ``satclip``."""
    dataset = commands.add_parser("dataset", help="datasets of a workspace").add_subparsers(
        required=True, metavar="ACTION"
    )
    _add_plan(dataset)
    _add_versions(dataset)
    _add_replay(dataset)
    _add_exchange(dataset)


def _add_plan(dataset: "Commands") -> None:
    planning = dataset.add_parser("plan", help="dry run: places, requests, bytes and hours of a build")
    planning.add_argument("--config", type=Path, default=PRESETS / "planetary_computer.yaml", help="run configuration")
    planning.add_argument("--cores", type=int, default=2, help="cores that decode")
    planning.add_argument("--round-trip-s", type=float, default=0.03, help="time from a request to its first byte")
    planning.add_argument("--workers", type=int, default=1, help="machines, each with these cores")
    planning.add_argument("--table", action="store_true", help="print the tables of docs/scale.md instead")
    prices = planning.add_argument_group("prices in USD; the defaults are assumptions, not quotations")
    prices.add_argument("--price-worker-hour", type=float, default=0.10)
    prices.add_argument("--price-read-gb", type=float, default=0.0)
    prices.add_argument("--price-stored-gb-month", type=float, default=0.02)
    planning.set_defaults(run=_dataset_plan)


def _add_versions(dataset: "Commands") -> None:
    listing = dataset.add_parser("versions", help="list the published versions")
    inspecting = dataset.add_parser("inspect", help="tell what a version holds")
    inspecting.add_argument("version", nargs="?", default="latest")
    verifying = dataset.add_parser(
        "verify", help="compare every file of a version with its checksum; name what changed"
    )
    verifying.add_argument("version", nargs="?", default="latest")
    verifying.add_argument(
        "--set-aside",
        action="store_true",
        help="let damaged shards count as unfinished, so that a build reads them anew",
    )
    compacting = dataset.add_parser("compact", help="rewrite a refreshed version without superseded patches")
    compacting.add_argument("version", nargs="?", default="latest")
    for parser, run in (
        (listing, _dataset_versions),
        (inspecting, _dataset_inspect),
        (verifying, _dataset_verify),
        (compacting, _dataset_compact),
    ):
        add_root(parser)
        parser.set_defaults(run=run)


def _add_replay(dataset: "Commands") -> None:
    replaying = dataset.add_parser("replay", help="read every patch of a version again and compare the pixels")
    replaying.add_argument("version", nargs="?", default="latest", help="a version, or the path of a replay manifest")
    replaying.add_argument("--into", type=Path, default=None, help="workspace to build in; default the same")
    replaying.add_argument("--stac-url", default=None, help="landing page; default $SATCLIP_STAC_URL or the preset's")
    replaying.add_argument("--collection", default="sentinel-2-l2a", help="STAC collection of the scenes")
    replaying.add_argument("--signing", default="auto", help="auto, none, planetary_computer or s3")
    replaying.add_argument("--profile", default="auto", help="name or path of the catalog's mapping file")
    add_root(replaying)
    replaying.set_defaults(run=_dataset_replay)


def _add_exchange(dataset: "Commands") -> None:
    importing = dataset.add_parser("import", help="import the S2-100K layout: a folder of files or tars, or one tar")
    importing.add_argument("source", type=Path, help="folder with index.csv and images/*.tif or data/*.tar; or a tar")
    add_root(importing)
    importing.set_defaults(run=_dataset_import)
    exporting = dataset.add_parser("export", help="write a dataset in the S2-100K layout")
    exporting.add_argument("target", type=Path, help="new or empty folder")
    exporting.add_argument("--version", default="latest", help="name of its folder under datasets/")
    exporting.add_argument("--tar-shards", type=int, default=0, help="write this many data/shard-NNN.tar, not files")
    add_root(exporting)
    exporting.set_defaults(run=_dataset_export)
    downloading = dataset.add_parser("download", help="fetch the published S2-100K from the Hugging Face Hub")
    downloading.add_argument("target", type=Path, help="folder; a download that broke off goes on")
    downloading.add_argument("--repo", default=None, help="dataset on the Hub; default torchgeo/s2-100k")
    downloading.add_argument("--revision", default=None, help="commit, tag or branch; default the pinned commit")
    downloading.add_argument("--shards", default=None, help="take only these data/shard-N.tar, as in 0-3,7")
    downloading.add_argument("--yes", action="store_true", help="fetch what was told")
    downloading.set_defaults(run=_dataset_download)


def _dataset_versions(options: argparse.Namespace) -> int:
    from pipelines.patches.dataset import latest_version, published_versions, read_dataset_record
    from pipelines.patches.store import dataset_folder

    root = workspace_root(options.root)
    versions = published_versions(root)
    if not versions:
        print(f"no dataset published in {root}")
    for version in versions:
        record = read_dataset_record(dataset_folder(root, version))
        state = "latest" if version == latest_version(root) else "" if record.passed else "did not pass"
        base = f"refreshes {record.base_version}" if record.base_version else record.source
        print(f"{version:14} {record.num_valid:>8} of {record.num_places} patches  {state:12} {base}")
    return 0


def _dataset_inspect(options: argparse.Namespace) -> int:
    from pipelines.patches.dataset import read_dataset_record, resolve_version
    from pipelines.patches.store import dataset_folder

    root = workspace_root(options.root)
    record = read_dataset_record(dataset_folder(root, resolve_version(root, options.version)))
    return _tell_dataset(root, record)


def _dataset_verify(options: argparse.Namespace) -> int:
    from pipelines.patches.dataset import resolve_version
    from pipelines.patches.integrity import set_damaged_aside, verify_files
    from pipelines.patches.store import dataset_folder

    root = workspace_root(options.root)
    folder = dataset_folder(root, resolve_version(root, options.version))
    problems = verify_files(folder)
    for problem in problems:
        print(f"problem   {problem}")
    if options.set_aside:
        for shard in set_damaged_aside(folder, problems):
            print(f"set aside shard {shard}; materialize patches and patch_dataset again")
    print(f"dataset   {folder.name}: {'whole' if not problems else f'{len(problems)} files differ'}")
    return int(bool(problems))


def _dataset_compact(options: argparse.Namespace) -> int:
    from pipelines.patches.compaction import compact_dataset

    root = workspace_root(options.root)
    return _tell_dataset(root, compact_dataset(root, options.version))


def _dataset_replay(options: argparse.Namespace) -> int:
    from pipelines.patches.config import PatchConfig
    from pipelines.patches.dataset import resolve_version
    from pipelines.patches.replay import ReplayCatalog, replay_dataset
    from pipelines.patches.store import dataset_folder
    from pipelines.workspace import stac_url

    root = workspace_root(options.root)
    given = Path(options.version)
    manifest = given if given.is_file() else dataset_folder(root, resolve_version(root, options.version))
    catalog = ReplayCatalog(stac_url(options.stac_url), options.collection, options.signing, options.profile)
    into = options.into.resolve() if options.into else root
    report = replay_dataset(into, manifest, catalog, PatchConfig())
    total = report.num_equal + len(report.differing)
    print(f"dataset   {report.version} in {into}")
    print(f"equal     {report.num_equal} of {total} patches")
    for place in report.differing[:20]:
        print(f"differs   place {place}")
    if len(report.differing) > 20:
        print(f"differs   and {len(report.differing) - 20} more places")
    return int(not report.is_equal)


def _dataset_import(options: argparse.Namespace) -> int:
    from pipelines.patches.s2_100k import import_s2_100k

    root = workspace_root(options.root)
    return _tell_dataset(root, import_s2_100k(root, options.source))


def _dataset_export(options: argparse.Namespace) -> int:
    from pipelines.patches.s2_100k_export import export_s2_100k

    root = workspace_root(options.root)
    report = export_s2_100k(root, options.target, options.version, num_tars=options.tar_shards)
    print(f"dataset   {report.version}")
    print(f"folder    {report.folder}")
    print(f"patches   {report.num_patches}, {report.num_bytes / 1e6:.1f} MB; places without: {report.num_left_out}")
    return 0


def _dataset_download(options: argparse.Namespace) -> int:
    from pipelines.patches.s2_100k_download import download_s2_100k
    from pipelines.patches.s2_100k_hub import REPO, REVISION, plan_download

    plan = plan_download(options.repo or REPO, options.revision or REVISION, shards=options.shards)
    print(f"dataset   {plan.repo}, commit {plan.revision}")
    print(f"host      {plan.host}, and the storage it names")
    print(f"licence   {plan.license}")
    print(f"files     {len(plan.files)}, {plan.num_bytes / 1e9:.3f} GB: {plan.files[0].path} to {plan.files[-1].path}")
    if not options.yes:
        print("satclip: nothing fetched; add --yes to fetch these files", file=sys.stderr)
        return 1
    report = download_s2_100k(plan, options.target)
    print(f"folder    {report.folder}")
    print(f"checked   {report.num_files} files; fetched now {report.num_fetched}, {report.num_bytes / 1e9:.3f} GB")
    return 0


def _tell_dataset(root: Path, record: "DatasetRecord") -> int:
    print(f"dataset   {record.version}")
    print(f"folder    {root / 'datasets' / record.version}")
    if record.base_version:
        print(f"refreshes {record.base_version}: {record.num_renewed} patches renewed")
    print(f"places    {record.num_places}, with a patch {record.num_valid}, without: {record.reasons or 'none'}")
    print(f"rejected  {record.rejections or 'none'}")
    print(f"baselines {record.baselines or 'none'}")
    print(f"content   sha256 {record.content_sha256}")
    for each in record.statistics:
        print(f"  {each.band:4} reflectance mean {each.mean:.4f} std {each.std:.4f} max {each.maximum:.4f}")
    for problem in record.problems:
        print(f"problem   {problem}")
    return 0 if record.passed else 1


def _dataset_plan(options: argparse.Namespace) -> int:
    import yaml

    from pipelines.patches.config import PatchConfig
    from pipelines.patches.scale import Prices, scale_tables
    from pipelines.sampling.config import PlacesConfig, SearchConfig
    from pipelines.sampling.estimate import describe_estimate, estimate_build

    if options.table:
        print(scale_tables())
        return 0
    if not options.config.is_file():
        raise ConfigurationError(
            f"{options.config}: no such file; see satclip config --help for the ones that come along"
        )
    operations = yaml.safe_load(options.config.read_text()).get("ops", {})
    missing = [name for name in ("sample_points", "scene_candidates", "patches") if name not in operations]
    if missing:
        raise ConfigurationError(
            f"{options.config}: no settings of {', '.join(missing)} under ops, expected those of a build; name a "
            "configuration of build_dataset or full_chain"
        )
    patches = PatchConfig(**operations["patches"].get("config", {}))
    prices = Prices(options.price_worker_hour, options.price_read_gb, options.price_stored_gb_month)
    estimate = estimate_build(
        PlacesConfig(**operations["sample_points"].get("config", {})),
        SearchConfig(**operations["scene_candidates"].get("config", {})),
        places_in_flight=patches.num_workers,
        num_cores=options.cores,
        round_trip_s=options.round_trip_s,
        num_workers=options.workers,
        prices=prices,
    )
    print("\n".join(describe_estimate(estimate, prices)))
    return 0
