"""A scripted STAC API for throttling, timeouts and paging, and the oracle of what a search must return."""

import json
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any, Literal

from shapely import box
from shapely.geometry import shape

from tests.loopback.faults import Exchange, LoopbackServer

Item = dict[str, Any]
Collection = dict[str, Any]

CORE = "https://api.stacspec.org/v1.0.0"
OPERATORS: dict[str, Callable[[Any, Any], bool]] = {
    "eq": lambda value, bound: bool(value == bound),
    "lt": lambda value, bound: bool(value < bound),
    "lte": lambda value, bound: bool(value <= bound),
    "gt": lambda value, bound: bool(value > bound),
    "gte": lambda value, bound: bool(value >= bound),
}


def item_matches(item: Item, search: dict[str, Any]) -> bool:
    """Whether an item answers a search body, by brute force; the oracle for the real servers too."""
    if "collections" in search and item["collection"] not in search["collections"]:
        return False
    if "ids" in search and item["id"] not in search["ids"]:
        return False
    if "bbox" in search and not shape(item["geometry"]).intersects(box(*search["bbox"])):
        return False
    if "intersects" in search and not shape(item["geometry"]).intersects(shape(search["intersects"])):
        return False
    if "datetime" in search and not _within(item["properties"]["datetime"], search["datetime"]):
        return False
    return all(
        name in item["properties"] and OPERATORS[operator](item["properties"][name], bound)
        for name, conditions in search.get("query", {}).items()
        for operator, bound in conditions.items()
    )


def _within(moment: str, interval: str) -> bool:
    first, _, last = interval.partition("/")
    instant = datetime.fromisoformat(moment)
    return (first == ".." or datetime.fromisoformat(first) <= instant) and (
        last == ".." or instant <= datetime.fromisoformat(last or first)
    )


class StubStac(LoopbackServer):
    """A STAC API over a list of items whose faults are scripted with ``script("/search", status(429), ...)``.

    Args:
        collection: Its only collection.
        items: In the order in which searches return them; the list may be changed between requests.
        query: What it does with ``query``: honour it (and say so in ``conformsTo``), ignore it (all items answer), or
            be empty (none does).
        max_limit: Most items of one page.
    """

    def __init__(
        self,
        collection: Collection,
        items: Sequence[Item] = (),
        *,
        query: Literal["honour", "ignore", "empty"] = "honour",
        max_limit: int = 1000,
    ) -> None:
        super().__init__()
        self.collection = collection
        self.items = list(items)
        self.query = query
        self.max_limit = max_limit

    @property
    def searches(self) -> list[dict[str, Any]]:
        """Bodies of all searches, faulty ones too, in order."""
        return [json.loads(request.body) for request in self.answered() if request.path == "/search"]

    def answer(self, exchange: Exchange) -> None:
        """Answers the landing page, the collection and POST /search."""
        collection_path = f"/collections/{self.collection['id']}"
        if exchange.route == "/search" and exchange.command == "POST":
            exchange.reply_json(self._page(json.loads(exchange.body)), media_type="application/geo+json")
        elif exchange.route == "/":
            exchange.reply_json(self._landing_page())
        elif exchange.route == collection_path:
            exchange.reply_json(self.collection)
        elif exchange.route == "/collections":
            exchange.reply_json({"collections": [self.collection], "links": []})
        else:
            exchange.reply_json({"code": "NotFoundError", "description": f"{exchange.route} does not exist."}, 404)

    def _landing_page(self) -> dict[str, Any]:
        conforms_to = [f"{CORE}/core", f"{CORE}/collections", f"{CORE}/ogcapi-features", f"{CORE}/item-search"]
        if self.query == "honour":
            conforms_to.append(f"{CORE}/item-search#query")
        return {
            "type": "Catalog",
            "stac_version": "1.0.0",
            "id": "stub",
            "description": "A scripted STAC API.",
            "conformsTo": conforms_to,
            "links": [
                {"rel": "self", "href": f"{self.url}/", "type": "application/json"},
                {"rel": "root", "href": f"{self.url}/", "type": "application/json"},
                {"rel": "data", "href": f"{self.url}/collections", "type": "application/json"},
                {"rel": "search", "href": f"{self.url}/search", "type": "application/geo+json", "method": "POST"},
            ],
        }

    def _page(self, search: dict[str, Any]) -> dict[str, Any]:
        applied = {name: value for name, value in search.items() if name != "query" or self.query == "honour"}
        found = [item for item in self.items if item_matches(item, applied)]
        if "query" in search and self.query == "empty":
            found = []
        start = int(search.get("token", "0"))
        stop = start + min(int(search.get("limit", 10)), self.max_limit)
        link = {"rel": "next", "href": f"{self.url}/search", "method": "POST", "type": "application/geo+json"}
        links = [link | {"body": search | {"token": str(stop)}}] if stop < len(found) else []
        return {"type": "FeatureCollection", "features": found[start:stop], "links": links}
