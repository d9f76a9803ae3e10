"""The page of an evaluation: what it says, how large it is, and what it does in a real browser."""

import math
import re
import shutil
import subprocess
from pathlib import Path

import matplotlib
import numpy as np
import pytest

from mbh_jax.evaluation.case_table import Masks, ScoredCase, case_rows, score_masks
from mbh_jax.evaluation.summary import summarize
from mbh_jax.reporting.report.cases import CaseImages, case_slices, choose_cases
from mbh_jax.reporting.report.page import ReportContents, write_report

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
CHROMIUM = next(filter(None, map(shutil.which, BROWSERS)), None)
AFFINE = np.diag([-0.5, -0.5, 5.0, 1.0])


def volume(seed: int, size: int = 40) -> CaseImages:
    """A round head with two kinds of blood, the prediction one pixel aside."""
    rng = np.random.default_rng(seed)
    row, column = np.indices((size, size))
    inside = (row - size / 2) ** 2 + (column - size / 2) ** 2 < (0.4 * size) ** 2
    hu = np.where(inside, 30, -1000) + rng.integers(-5, 6, (6, size, size))
    reference = np.zeros(hu.shape, np.uint8)
    reference[2:5, 12:20, 12 + seed % 5 : 20] = 2
    reference[3, 24:27, 20:25] = 4
    return CaseImages(hu.astype(np.int16), reference, np.roll(reference, 1, axis=2))


def scored(cases: dict[str, CaseImages], affine=AFFINE) -> list[ScoredCase]:
    return [
        score_masks(Masks(name, one.reference, one.prediction, affine))
        for name, one in cases.items()
    ]


def write(
    path: Path, cases: dict[str, CaseImages], affine=AFFINE, with_images=True, history=()
) -> str:
    found = scored(cases, affine)
    contents = ReportContents(
        title="a <b>title</b>",
        summary=summarize(
            found, patients=[*cases], facts={"provenance": {"config": {"seed": "<i>"}}}
        ),
        case_rows=case_rows(found),
        images=cases.__getitem__ if with_images else lambda case: None,
        history=history,
    )
    write_report(path, contents)
    return path.read_text()


def test_a_report_has_the_numbers_and_takes_names_as_text(tmp_path):
    name = "x</script><script>alert(1)</script>"
    html = write(tmp_path / "report.html", {name: volume(0), "b": volume(1)})
    assert "<script>alert" not in html and "<b>title" not in html and "<i>" not in html
    assert html.count("<script>") == 1
    assert set(re.findall(r"https?://[^/\"]+", html)) <= {"http://www.w3.org"}
    text = re.sub(r"<[^>]*>", " ", html)
    assert "2 cases of 2 patients" in text and "not a medical device" in text
    assert re.search(r"IPH\s+0\.\d{3}\s+\S+, n = 2", text)
    assert "missed" not in re.search(r"All cases.*", text, re.DOTALL).group().split("How it")[0]


@pytest.mark.parametrize("change", ["healthy", "all missed", "no spacing", "one case"])
def test_every_set_of_cases_has_a_report(change, tmp_path):
    cases = {f"case_{i}": volume(i) for i in range(1 if change == "one case" else 6)}
    empty = np.zeros_like(volume(0).reference)
    if change == "healthy":
        cases = {name: CaseImages(None, empty, empty) for name in cases}
    if change == "all missed":
        cases = {name: one._replace(prediction=empty) for name, one in cases.items()}
    affine = None if change == "no spacing" else AFFINE
    html = write(tmp_path / "report.html", cases, affine, with_images=change != "one case")
    assert "nan" not in re.sub(r"<svg.*?</svg>|<script.*?</script>", "", html, flags=re.DOTALL)
    assert ("missed</em>" in html) == (change == "all missed")
    table = re.search(r'<table class="headline">.*?</table>', html, re.DOTALL).group()
    said = " ".join(re.sub(r"<[^>]*>", " ", table).split())
    assert "EDH absent n = 0 absent n = 0 absent n = 0 0 absent absent absent 0 of 0" in said
    assert ("unknown" in said) == (change == "no spacing")
    assert ("none found" in said) == (change == "all missed")
    assert ("unknown: the masks have no spacing" in html) == (change == "no spacing")
    assert ("no volumes" in html) == (change == "healthy")
    assert ('id="stage"' in html) == (change not in ("healthy", "one case"))


def test_the_page_of_a_hundred_cases_is_small(tmp_path):
    """Case tables and the pictures of five cases of a real size."""
    images = {f"case_{i}": volume(i) for i in range(100)}
    size = len(write(tmp_path / "report.html", images))
    rng = np.random.default_rng(0)
    head = np.clip(rng.normal(30, 12, (48, 512, 512)), -1000, 90).astype(np.int16)
    mask = np.zeros(head.shape, np.uint8)
    mask[:, 200:300, 200:300] = rng.random((48, 100, 100)) < 0.02
    scene = case_slices(CaseImages(head, mask, mask))
    assert len(scene["slices"]) == 32
    of_case = sum(len(str(one)) for one in scene["slices"])
    assert size + 5 * of_case < 10e6


def case_of(name: str, any_dice: float, **present: float) -> list[dict]:
    """Rows of a case: Dice of all blood, of the reference's classes, and 0 of a false one."""
    rows = [
        {"case": name, "class": key, "dice": dice, "n_ref": 9, "n_pred": 9}
        for key, dice in present.items()
    ]
    false = {"case": name, "class": "SDH", "dice": 0.0, "n_ref": 0, "n_pred": 9}
    return [*rows, false, {"case": name, "class": "any", "dice": any_dice, "n_ref": 9, "n_pred": 9}]


def test_worst_median_and_best_are_chosen():
    rows = [row for i in (3, 1, 0, 2, 6, 4, 5) for row in case_of(f"c{i}", 1 - i / 10, IPH=i / 10)]
    rows.append({"case": "healthy", "class": "any", "dice": math.nan, "n_ref": 0, "n_pred": 0})
    chosen = [(rank, case) for rank, case, _ in choose_cases(rows)]
    assert chosen == [
        *(("worst", "c0"), ("second worst", "c1"), ("median", "c3")),
        *(("second best", "c5"), ("best", "c6")),
    ]
    assert [case for _, case, _ in choose_cases(rows[:6])] == ["c1", "c3"]


def test_cases_are_ranked_by_the_classes_that_they_have_and_then_by_all_blood():
    rows = [
        *case_of("two", 0.9, IPH=0.4, SAH=0.8),
        *case_of("less", 0.3, IVH=0.6),
        *case_of("more", 0.5, IVH=0.6),
        *case_of("healthy", 0.0),
    ]
    chosen = [(one.case, one.dice) for one in choose_cases(rows)]
    assert [case for case, _ in chosen] == ["healthy", "less", "more", "two"]
    assert [dice for _, dice in chosen] == pytest.approx([0, 0.6, 0.6, 0.6])


def test_plots_and_curves_are_described_in_words(tmp_path, make_history):
    cases = {f"case_{i}": volume(i) for i in range(3)}
    with matplotlib.rc_context({"text.usetex": True}):  # Needs LaTeX, which may be missing.
        html = write(tmp_path / "report.html", cases, history=make_history(6))
    plots = re.findall(r"<svg [^>]*xmlns.*?</svg>", html, re.DOTALL)
    assert len(plots) == 7
    ids = re.findall(r'\bid="([^"]*)"', html)
    assert len(ids) == len(set(ids))
    for svg in plots:
        named = re.search(r'aria-labelledby="(\S+) (\S+)"', svg).groups()
        title, description = (
            re.search(rf'<{tag} id="{one}">(.*?)</{tag}>', svg).group(1)
            for tag, one in zip(("title", "desc"), named, strict=True)
        )
        assert len(title) > 5 and len(description) > 20
    assert "<img" not in html
    assert "The validation loss is lowest in epoch 5." in html
    reference, prediction = (
        np.stack([getattr(one, mask) for one in cases.values()])
        for mask in ("reference", "prediction")
    )
    found = [((reference == true) & (prediction == 2)).sum() for true in (2, 0)]
    table = re.search(r'<table class="confusion">.*?</table>', html, re.DOTALL).group()
    rows = [re.sub(r"<[^>]*>", " ", row).split() for row in table.split("<tr>")[3:]]
    assert rows[0] == ["EDH", "absent"]
    assert rows[1][0] == "IPH" and f"{found[0]:,}" in rows[1]
    assert rows[5][:2] == ["No", "blood"] and rows[5][3] == f"{found[1]:,}"


def test_contours_lie_on_the_edges_of_the_pixels():
    """A block of pixels [r0, r1) x [c0, c1) has an outline around these lines, corners cut."""
    mask = np.zeros((1, 30, 40), np.uint8)
    mask[0, 10:14, 20:26] = 3
    scene = case_slices(CaseImages(np.zeros(mask.shape, np.int16), mask, mask * 0))
    assert (scene["width"], scene["height"]) == (40, 30)
    path = scene["slices"][0]["reference"]["IVH"]
    points = np.array(
        [[float(n) for n in pair.split()] for pair in re.findall(r"[\d.]+ [\d.]+", path)]
    )
    assert points.min(0).tolist() == [20, 10] and points.max(0).tolist() == [26, 14]
    assert scene["slices"][0]["prediction"] == {}


@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")
def test_keys_and_buttons_step_through_slices_and_cases(tmp_path):
    cases = {f"case_{i}": volume(i) for i in range(5)}
    html = write(tmp_path / "report.html", cases)
    scored_rows = case_rows(scored(cases))
    driver = """<script>
    const said = [];
    const outlines = () => document.querySelectorAll("#stage path").length;
    const note = () => said.push(byId("status").textContent + "|" + outlines());
    const press = (key) => {
      byId("stage").dispatchEvent(new KeyboardEvent("keydown", { key, bubbles: true }));
      note();
    };
    const roll = (deltaY) => {
      const event = new WheelEvent("wheel", { deltaY, bubbles: true, cancelable: true });
      byId("stage").dispatchEvent(event);
      said.push(event.defaultPrevented);
    };
    const click = (id) => { byId(id).click(); note(); };
    note();
    press("ArrowUp"); press("ArrowDown"); press("r"); press("n");
    document.querySelectorAll(".sortable button")[2].click();
    said.push(document.querySelector(".sortable tbody tr td:nth-of-type(2)").textContent);
    click("slice-after"); click("slice-after");
    said.push(byId("slice-after").disabled);
    roll(-100); roll(100);
    click("slice-before"); click("case-after");
    said.push(byId("case-name").textContent);
    click("case-before"); click("case-before");
    said.push(byId("case-name").textContent);
    const link = document.querySelector("[data-show='3']");
    link.click();
    said.push(byId("case-name").textContent === link.textContent);
    const small = [...document.querySelectorAll("button, .controls label, #slice")].filter(
      (one) => one.getBoundingClientRect().height < 40);
    said.push(small.length);
    document.body.dataset.said = said.join(";");
    </script></body>"""
    (tmp_path / "report.html").write_text(html.replace("</body>", driver))
    done = subprocess.run(
        [
            *(CHROMIUM, "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic"),
            *("--no-first-run", "--disable-background-networking", "--disable-component-update"),
            *("--disable-sync", f"--user-data-dir={tmp_path / 'profile'}", "--dump-dom"),
            (tmp_path / "report.html").as_uri(),
        ],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    said = re.search(r'data-said="([^"]*)"', done.stdout).group(1).split(";")
    # Slices 2 to 6 are there: those with blood and their neighbours; the middle one is shown first.
    assert [entry[:12] for entry in said[:3]] == ["Slice 4 of 6", "Slice 5 of 6", "Slice 4 of 6"]
    # Both masks have both classes there; without the reference two outlines are left.
    assert [int(entry.split("|")[1]) for entry in said[2:4]] == [4, 2]
    assert said[4].startswith("Slice 4 of 6")
    assert float(said[5]) < 0.9
    # Buttons; at the last slice the wheel scrolls the page, and downwards it steps to the slice.
    assert [entry[:12] for entry in said[6:8]] == ["Slice 5 of 6", "Slice 6 of 6"]
    assert said[8:11] == ["true", "false", "true"]
    assert said[11].startswith("Slice 4 of 6"), "from slice 5, where the wheel went"
    names = [one.case for one in choose_cases(scored_rows)]
    assert said[13] == names[2] and said[16] == names[0]
    assert said[17] == "true", "a name in the table shows its case"
    assert said[18] == "0", "all can be touched"
