"""The page of an evaluation: what it says, how large it is, and what it does in a real browser."""

import math
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from mbh_jax.evaluation.case_table import Masks, case_rows, score_masks
from mbh_jax.evaluation.summary import summarize
from mbh_jax.reporting.report.cases import CaseImages, case_slices, choose_cases
from mbh_jax.reporting.report.page import ReportContents, write_report

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "chrome"))), None)
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


def write(path: Path, cases: dict[str, CaseImages], affine=AFFINE, with_images=True) -> str:
    scored = [
        score_masks(Masks(name, one.reference, one.prediction, affine))
        for name, one in cases.items()
    ]
    contents = ReportContents(
        title="a <b>title</b>",
        summary=summarize(scored, facts={"provenance": {"config": {"seed": "<i>"}}}),
        case_rows=case_rows(scored),
        images=cases.__getitem__ if with_images else lambda case: None,
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


def test_worst_median_and_best_are_chosen():
    rows = [{"case": f"c{i}", "class": "any", "dice": i / 10} for i in (3, 1, 0, 2, 6, 4, 5)]
    rows.append({"case": "healthy", "class": "any", "dice": math.nan})
    chosen = [(rank, case) for rank, case, _ in choose_cases(rows)]
    assert chosen == [
        *(("worst", "c0"), ("second worst", "c1"), ("median", "c3")),
        *(("second best", "c5"), ("best", "c6")),
    ]
    assert [case for _, case, _ in choose_cases(rows[:2])] == ["c1", "c3"]


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
def test_keys_step_through_slices_and_cases(tmp_path):
    html = write(tmp_path / "report.html", {f"case_{i}": volume(i) for i in range(5)})
    driver = """<script>
    const said = [];
    const outlines = () => document.querySelectorAll("#stage path").length;
    const note = () => said.push(byId("status").textContent + "|" + outlines());
    const press = (key) => {
      byId("stage").dispatchEvent(new KeyboardEvent("keydown", { key, bubbles: true }));
      note();
    };
    note();
    press("ArrowUp"); press("ArrowDown"); press("r"); press("n");
    document.querySelectorAll(".sortable button")[2].click();
    said.push(document.querySelector(".sortable tbody tr td:nth-of-type(2)").textContent);
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
