"""A catalog of given items and files, served by the sandbox's front instead of the planet's."""

import json
from pathlib import Path
from urllib.parse import quote, urlsplit

from pipelines.errors import ConfigurationError
from pipelines.sandbox import catalog


def copy_catalog(source: Path, target: Path) -> None:
    """Writes the collection and the items of a folder for the STAC server, with addresses below /files.

    Args:
        source: Holds ``collection.json``, ``items.ndjson`` and the files that the items name relative to it; addresses
            with a scheme stay as they are.
        target: Receives ``collection.json`` and ``items.json``.

    Raises:
        ConfigurationError: one of the two is missing or no JSON, or the collection has another id.
    """
    try:
        collection = json.loads((source / "collection.json").read_text())
        items = [json.loads(line) for line in (source / "items.ndjson").read_text().splitlines() if line.strip()]
    except (OSError, ValueError) as error:
        raise ConfigurationError(
            f"catalog {source}: {error}; expected a folder with collection.json and items.ndjson"
        ) from error
    if collection.get("id") != catalog.COLLECTION_ID:
        raise ConfigurationError(
            f"catalog {source}: collection {collection.get('id')!r}, expected {catalog.COLLECTION_ID!r}; rename it"
        )
    for item in items:
        item["collection"] = catalog.COLLECTION_ID
        for asset in item["assets"].values():
            if not urlsplit(asset["href"]).scheme:
                asset["href"] = f"{catalog.ORIGIN}/files/{quote(asset['href'])}"
    (target / "collection.json").write_text(json.dumps(collection))
    (target / "items.json").write_text(json.dumps({"type": "FeatureCollection", "features": items}))
