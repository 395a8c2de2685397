"""The page is self-contained, small, and holds no markup that a label could smuggle in."""

import io
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest
import report_samples as samples
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from test_report_formats import HOSTILE, hostile

from gatekeeper.evidence import html as module
from gatekeeper.evidence.html import ReportPage, report_page, validation_page
from gatekeeper.evidence.pictures import LIMIT_BYTES, Album, box_style, size_of
from gatekeeper.types import Check, CurvePoint, LabelRow, Proof, Reply, Verdict

VOID = {"meta", "link", "br", "img", "hr", "input", "path", "line", "rect"}


class Reader(HTMLParser):
    """Tags with their attributes, text, and whether every tag is closed."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.open, self.text = [], [], []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


def full(report=None, **more):
    before, after = samples.quality()
    parts = {
        "exhibits": samples.exhibits(3),
        "steps": samples.steps(),
        "label_rows": samples.label_rows(),
        "trigger_files": samples.trigger_files(),
        "before": before,
        "after": after,
        "rescan": samples.passing(),
    }
    return ReportPage(report=report or samples.failing(), **(parts | more))


PAGES = {name: ReportPage(report=make()) for name, make in samples.ALL.items()} | {
    "full": full(),
    "hostile": full(hostile()),
}
pages = pytest.mark.parametrize("page", PAGES.values(), ids=list(PAGES))


@pages
def test_a_page_asks_the_network_for_nothing(page):
    for text in (report_page(page), validation_page(page.report, {"results": []})):
        seen = Reader(text)
        assert seen.open == []
        for tag, attributes in seen.tags:
            assert tag not in {
                "link",
                "iframe",
                "object",
                "embed",
                "base",
                "form",
                "audio",
                "video",
            }
            assert not any(name.startswith("on") for name in attributes)
            for name in ("src", "href", "srcset", "data", "action", "poster", "xlink:href"):
                assert attributes.get(name, "data:").startswith(("data:", "#"))
            if tag == "script":
                assert attributes["type"] == "application/json"
        assert "url(" not in text
        assert "@import" not in text
        policy = next(a["content"] for t, a in seen.tags if a.get("http-equiv"))
        assert policy == "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


@pages
def test_verdict_and_why_come_first_and_pictures_are_described(page):
    text = report_page(page)
    seen = Reader(text)
    assert text.startswith("<!doctype html>")
    assert ("html", {"lang": "en"}) in seen.tags
    assert all(attributes.get("alt") for tag, attributes in seen.tags if tag == "img")
    words = [part.strip() for part in seen.text if part.strip()]
    body = words[[i for i, w in enumerate(words) if ":root" in w][-1] + 1 :]
    assert body[0] == page.report.verdict.value.capitalize()
    gauge = next(a for t, a in seen.tags if t == "svg" and a.get("role") == "img")
    assert gauge["aria-label"].startswith("Backdoor score")


def test_the_page_tells_the_whole_story():
    text = report_page(full())
    for told in (
        "banana",
        "goldfish",
        "The cleaned version: pass",
        "Before and after the repair",
        "Against the anchor",
        "How the trigger was found",
        "Label by label",
        "no-backdoor",
        "unsafe_load",
        "incoming/photo-000.png",
        samples.SHA,
        "gatekeeper scan models:/clip/3 --anchor models:/clip-base/1 --oracle regions --seed 7",
        "use the cleaned version",
    ):
        assert told in text
    assert text.count("data:image/jpeg") == 3 * 2 + 6
    assert text.count("data:image/png") == 1
    assert 'class="box" style="left:8.33%;top:68.75%;width:25.00%;height:25.00%"' in text


def test_a_suspect_image_is_shown_with_its_region_covered():
    shown = (replace(samples.exhibits(1)[0], trigger=""),)
    text = report_page(full(exhibits=shown))
    assert "region covered" in text
    assert "as found" in text
    assert ">clean<" not in text.replace('class="chip ok"', "").split("Suspect images")[0]


def test_without_an_anchor_the_page_says_what_the_oracle_is_worth():
    text = report_page(full(replace(samples.failing(), anchor=None)))
    assert "check of consistency only" in text
    assert "Against the anchor" not in text
    assert "owes this model nothing" not in text


def test_a_hostile_label_stays_text():
    text = report_page(full(hostile()))
    assert "<script>alert" not in text
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in text
    assert r"\u202e" in text
    assert "\u202e" not in text
    assert "\x1b" not in text
    assert HOSTILE not in text
    text.encode("utf-8")


@settings(max_examples=25, deadline=None)
@given(st.text(st.characters(), max_size=40))
def test_no_string_breaks_the_page(label):
    seen = Reader(report_page(full(hostile(label))))
    assert seen.open == []
    assert {t for t, _ in seen.tags} <= {t for t, _ in Reader(report_page(full())).tags}


def test_the_page_stays_below_3_mb_however_much_there_is():
    noise = np.random.default_rng(0).integers(0, 256, (512, 512, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(noise).save(buffer, format="PNG")  # the worst that a JPEG can be asked to hold
    png = buffer.getvalue()
    big = full(
        exhibits=tuple(
            replace(exhibit, clean_png=png, triggered_png=png)
            for exhibit in samples.exhibits(1) * 60
        ),
        steps=samples.steps(6) * 50,
        label_rows=tuple(
            LabelRow(label=f"label {i}", images=1, flip_rate=0.5, role="victim")
            for i in range(10_000)
        ),
        trigger_files={"triggers/trigger-1.png": b"\x89PNG\r\n\x1a\n" + b"x" * 5_000_000},
        report=replace(samples.failing(), suspects=samples.failing().suspects * 2000),
    )
    text = report_page(big)
    assert len(text.encode()) < 3_000_000
    assert "9850 more labels" in text
    assert "more in report.json" in text
    assert 'id="report"' not in text  # too long to embed


def test_pictures_beyond_the_limit_are_named_not_shown():
    album = Album(left=1000)
    assert album.photo(samples.png(1, side=224)) is None
    assert album.left == 1000
    assert Album().photo(samples.png(1)).startswith("data:image/jpeg;base64,")
    assert LIMIT_BYTES < 3_000_000


@pytest.mark.parametrize("blob", [b"", b"GIF89a", b"\x89PNG\r\n\x1a\n", samples.png(1)[:60]])
def test_what_is_no_picture_is_not_shown(blob):
    assert Album().photo(blob) is None
    assert box_style((0, 0, 1, 1), blob[:20]) is None


def test_a_box_outside_the_picture_is_not_drawn():
    png = samples.png(1, side=96)
    assert size_of(png) == (96, 96)
    assert box_style((0, 0, 48, 96), png) == "left:0.00%;top:0.00%;width:50.00%;height:100.00%"
    for box in ((0, 0, 96, 96), (0, 0, 97, 10), (5, 5, 5, 9), (-1, 0, 4, 4)):
        assert box_style(box, png) is None


def test_validation_page_shows_each_expectation_once_grouped_by_rule():
    def item(part, ok, bound=None):
        meta = {"part": part, "metric": "backdoor.score", "bound": bound, "rules": ["no-backdoor"]}
        config = {"type": "expect_x", "meta": meta, "kwargs": {}}
        return {"success": ok, "expectation_config": config, "result": found if bound else {}}

    found = {"observed_value": 0.973}
    told = {"results": [item("<=", False, 0.5), item("not null", True), item("present", True)]}
    text = validation_page(samples.failing(), told)
    assert "2 of 3 expectations hold" in text
    assert text.index(">present") < text.index(">not null") < text.index("0.973")
    assert "Great Expectations was not asked" in validation_page(samples.failing(), {})


def test_every_verdict_has_its_word_and_its_next_step():
    for verdict in Verdict:
        text = report_page(ReportPage(report=replace(samples.failing(), verdict=verdict)))
        assert f"<h1>{verdict.value.capitalize()}</h1>" in text
        assert "<b>Next:</b>" in text


def test_the_next_step_follows_the_rescan():
    assert "gatekeeper rectify models:/clip/3" in report_page(full(rescan=None))
    assert "no repair passed" in report_page(full(rescan=samples.failing()))


def test_a_repair_that_is_not_proven_is_told_and_advised_against():
    checks = tuple(
        Check(
            id=name, what=what, before=None, after=after, op="<=", limit=0.05, n=40,
            ok=after <= 0.05,
        )
        for name, what, after in (("rebound", "Attack success <later>", 0.4), ("near", "x", 0.0))
    )  # fmt: skip
    curve = (CurvePoint(at=0, attack_success=0.0), CurvePoint(at=300, attack_success=0.4))
    proof = Proof(checks=checks, rebound=curve, path=(), images=40, notes=("of its own",))
    reply = Reply(
        file="n1.png", trigger="patch towards banana", truth="goldfish",
        clean_png=samples.png(1), triggered_png=samples.png(1, patch=24),
        suspect=("goldfish", "banana"), cleaned=("goldfish", "coral reef"),
    )  # fmt: skip
    page = full(proof=proof, replies=(reply,), refused="Not proven: it comes back.")
    text = report_page(page)
    told = " ".join("".join(Reader(text).text).split())
    assert "The proof: 1 of 2 checks failed" in told
    assert "Attack success <later>" in told
    assert "300 steps" in told
    assert "n1.png, patch towards banana" in told
    assert "ask its maker for a clean one. Not proven: it comes back." in told
    assert "use the cleaned version" not in told


def test_numbers_alone_become_svg():
    assert "&lt;b&gt;" in module.gauge(0.5, None, "<b>")
