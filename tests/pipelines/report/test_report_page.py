import re
from html.parser import HTMLParser

import numpy as np
import pandas as pd
import pytest

from pipelines.evaluation.scores import COLUMNS
from pipelines.report.figures import loss_curves
from pipelines.report.page import LineageStep, ReportContent, render_report, write_report

VOID = {"meta", "link", "img", "br", "hr", "input"}


class Balance(HTMLParser):
    def __init__(self):
        super().__init__()
        self.open, self.images, self.text = [], [], []

    def handle_starttag(self, tag, attrs):
        if tag == "img":
            self.images.append(dict(attrs))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if "style" not in self.open:
            self.text.append(data)


def content(**changes):
    rows = [
        dict.fromkeys(COLUMNS, "x")
        | {"task": "elevation", "split": split, "cell_deg": cell_deg, "metric_name": "r2", "metric_value": value,
           "ci_lower": value - 0.05, "ci_upper": value + 0.05, "model_name": model, "seed": seed, "n_samples": 1234}
        for split, cell_deg in (("random", np.nan), ("blocks", 10.0))
        for seed in (0, 1)
        for model, value in (("satclip", 0.7 + seed / 50), ("sincos", 0.4), ("untrained", -0.0001))
    ]  # fmt: skip
    given = {
        "title": "Embeddings of <places>",
        "synthetic": True,
        "facts": {"Dataset version": "v7", "Checkpoint SHA-256": "ab" * 32},
        "package_versions": {"torch": "2.9", "numpy": "2.2"},
        "num_valid": 700,
        "rejected": {"no data": 8, "cloud": 60},
        "scores": pd.DataFrame(rows),
        "model_name": "satclip",
        "retrieval": [("recall@1", "0.31", "chance is 0.004")],
        "lineage": [LineageStep("patch_dataset", "700 patches", "v7")],
        "loss_curves": loss_curves(pd.DataFrame({"epoch": [0, 1], "train_loss": [2.0, 1.0], "val_loss": [2.0, 1.5]})),
    }
    return ReportContent(**(given | changes))


def parsed(page):
    parser = Balance()
    parser.feed(page)
    parser.close()
    assert parser.open == []
    return parser, re.sub(r"\s+", " ", " ".join(parser.text))


def test_the_page_is_well_formed_and_says_what_it_was_given():
    parser, text = parsed(render_report(content()))
    for said in (
        "Embeddings of <places>",
        "768",
        "700",
        "91.1%",
        "cloud",
        "recall@1",
        "patch_dataset",
        "ab" * 32,
        "torch 2.9",
    ):
        assert said in text
    assert text.index("cloud") < text.index("no data")
    assert len(parser.images) == 1
    assert all(image["alt"] and image["src"].startswith("data:image/png;base64,") for image in parser.images)


def test_the_page_asks_nothing_of_the_network():
    page = render_report(content())
    addresses = re.findall(r"""(?:src|href|url|action)\s*[=(]\s*["']?([^"'\s>)]+)""", page)
    assert addresses
    assert all(address.startswith(("data:", "#")) for address in addresses)
    assert "<script" not in page
    assert "://" not in page


def test_scores_are_means_over_seeds_with_the_margin_over_the_best_baseline():
    _, text = parsed(render_report(content()))
    assert text.count("0.710") == 2
    assert text.count("0.66 to 0.76") == 2
    assert text.count("+0.310") == 2
    assert "2 seeds" in text
    assert "-0.00" not in text


def test_only_a_synthetic_planet_brings_the_caution():
    caution = "never say anything about quality on Earth"
    assert caution in parsed(render_report(content()))[1]
    assert caution not in parsed(render_report(content(synthetic=False)))[1]


def test_sections_without_content_are_left_out():
    page = render_report(content(loss_curves=None, retrieval=(), rejected={}, lineage=()))
    assert 'id="training"' not in page
    assert "#training" not in page
    assert "#embeddings" not in page
    parsed(page)


def test_text_from_outside_is_escaped():
    page = render_report(content(title="<script>alert(1)</script>", rejected={"<b>cloud": 3}))
    assert "<script" not in page
    assert "&lt;b&gt;cloud" in page


def test_a_model_without_scores_has_no_margin():
    _, text = parsed(render_report(content(model_name="another")))
    assert "+0.3" not in text


def test_equal_content_gives_an_equal_page_written_whole(tmp_path):
    path = tmp_path / "report" / "report.html"
    write_report(path, content())
    assert path.read_text(encoding="utf-8") == render_report(content())
    assert [child.name for child in path.parent.iterdir()] == ["report.html"]


@pytest.mark.parametrize("num_valid", [0, 3])
def test_few_places_are_reported(num_valid):
    _, text = parsed(render_report(content(num_valid=num_valid, rejected={})))
    assert f"{num_valid} with a valid patch" in text
