"""The page of a scan: what it holds, checked by nibabel, and what it does, in a real browser."""

import base64
import json
import re
import shutil
import subprocess
from html import unescape
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest

from mbh_jax.reporting.viewer import embed, page
from mbh_jax.reporting.viewer.embed import Grid

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
CHROMIUM = next(filter(None, map(shutil.which, BROWSERS)), None)
AFFINE = np.array([[-0.5, 0, 0, 60], [0, -0.5, 1.5, 70], [0, 0, 5, -30], [0, 0, 0, 1]])
"""With the shear of a gantry tilt."""


def head(slices: int = 8, size: int = 96) -> Grid:
    """A round head off the middle with a lesion of class 2 and a table; noise as a scanner has."""
    rng = np.random.default_rng(0)
    row, column = np.indices((size, size))
    inside = (row - 50) ** 2 + (column - 40) ** 2 < 19**2
    hu = np.where(inside, 30, -1000) + rng.integers(-5, 6, (slices, size, size))
    hu[:, 90:92, 5:90] = 100  # The table.
    mask = np.zeros(hu.shape, np.uint8)
    mask[3:6, 45:56, 26:35] = 2  # On the right of the patient.
    hu[mask > 0] += 40
    return Grid(hu.astype(np.int16), mask, AFFINE)


def report(**changes: Any) -> dict[str, Any]:
    nothing = {"ml": 0, "num_slices": 0, "num_lesions": 0, "largest_lesion_ml": 0, "abc2_ml": 0}
    blood = {"ml": 12.34, "num_slices": 3, "num_lesions": 1, "largest_lesion_ml": 11, "abc2_ml": 9}
    names = ("EDH", "IPH", "IVH", "SAH", "SDH", "any")
    return {
        "scan": "ward_a",
        "spacing_mm": [0.5, 0.5, 5.0],
        "classes": {name: blood if name in ("IPH", "any") else nothing for name in names},
        "warnings": ["the scan covers 40 mm: blood elsewhere is not counted"],
        "made_by": {"models": [{"workdir": "run", "step": 7}]},
        **changes,
    }


def decoded(text: str) -> nibabel.Nifti1Image:
    import gzip

    return nibabel.Nifti1Image.from_bytes(gzip.decompress(base64.b64decode(text)))


def test_a_page_holds_the_scan_cropped_to_the_head_and_nothing_moves(tmp_path: Path) -> None:
    grid = head()
    page.write_page(tmp_path / "a.html", grid, report(scan="a </script><b>&"))
    html = (tmp_path / "a.html").read_text()
    image, mask = (
        decoded(re.search(f'id="{name}">([^<]*)<', html)[1])  # type: ignore[index]
        for name in ("image", "mask")
    )
    # The head is rows 32 to 69 and columns 22 to 59, in pairs; 10 mm are 20 pixels.
    for found, array in ((image, grid.hu), (mask, grid.mask)):
        np.testing.assert_array_equal(np.asarray(found.dataobj).T, array[:, 12:90, 2:80])
        np.testing.assert_allclose(
            found.affine @ (0, 0, 2, 1), grid.affine @ (2, 12, 2, 1), atol=1e-4
        )
        np.testing.assert_allclose(found.affine[:3, :3], AFFINE[:3, :3], atol=1e-6)
    assert image.get_data_dtype() == np.int16 and mask.get_data_dtype() == np.uint8
    assert "rows 13 to 90, columns 3 to 80" in html
    assert "12.3" in html and "The scan covers 40 mm" in html and page.DISCLAIMER in html
    # Names are text, never markup, and nothing is loaded from elsewhere.
    assert "<b>" not in html and "a &lt;/script&gt;&lt;b&gt;&amp;" in html
    assert "default-src 'none'" in html
    assert not re.search(r"<(?:link|script|img|iframe)[^>]*(?:src|href)=\"(?!data:)", html)
    assert "Redistributions in binary form must reproduce" in html


def test_blood_outside_the_head_is_in_the_page_and_so_is_a_scan_of_air() -> None:
    grid = head()
    grid.mask[2, 5, 95] = 4
    rows, columns = embed.head_box(grid)
    assert (rows, columns) == (slice(0, 90), slice(2, 96))
    air = Grid(np.full((2, 9, 7), -1000, np.int16), np.zeros((2, 9, 7), np.uint8), AFFINE)
    assert embed.head_box(air) == (slice(0, 9), slice(0, 7))


def test_halving_averages_and_keeps_a_single_pixel_of_blood() -> None:
    hu = np.arange(2 * 4 * 3, dtype=np.int16).reshape(2, 4, 3)
    mask = np.zeros(hu.shape, np.uint8)
    mask[0, 1, 1] = 5
    mask[1, :2, :2] = [[1, 3], [3, 1]]
    half = embed.halve(Grid(hu, mask, AFFINE))
    assert half.hu.shape == (2, 2, 2)
    assert half.hu[0, 0, 0] == np.mean([0, 1, 3, 4]) and half.hu[0, 0, 1] == round(3.5)
    assert half.mask.tolist() == [[[5, 0], [0, 0]], [[1, 0], [0, 0]]]
    # The middle of a block of four pixels.
    np.testing.assert_allclose(half.affine @ (1, 1, 1, 1), AFFINE @ (2.5, 2.5, 1, 1))


def test_a_scan_that_is_too_large_is_halved_or_shown_as_pictures(tmp_path: Path) -> None:
    grid = head()
    whole = embed.embed(grid)
    assert whole is not None and not whole.is_halved
    half = embed.embed(grid, max_bytes=len(whole.image) - 1)
    assert half is not None and half.is_halved
    assert (half.rows, half.columns) == (whole.rows, whole.columns)
    assert decoded(half.image).shape == (39, 39, 8)
    page.write_page(tmp_path / "a.html", grid, report(), max_bytes=len(whole.image) - 1)
    assert "half the resolution" in (tmp_path / "a.html").read_text()
    page.write_page(tmp_path / "a.html", grid, report(), max_bytes=100)
    html = (tmp_path / "a.html").read_text()
    assert "too large for a page that scrolls" in html and "<script" not in html
    assert 'src="data:image/png;base64,' in html and "12.3" in html
    nothing = dict.fromkeys(report()["classes"], report()["classes"]["EDH"])
    assert "No blood was found" not in html
    page.write_page(tmp_path / "a.html", grid, report(classes=nothing), max_bytes=100)
    assert "No blood was found" in (tmp_path / "a.html").read_text()


DRIVER = """
<script>
const said = [];
function blue(part = 1) {  // Pixels that show class 2 in this part of the width, from the left.
  viewer.drawScene();
  const { gl } = viewer, { width, height } = gl.canvas;
  const pixels = new Uint8Array(width * height * 4);
  gl.readPixels(0, 0, width, height, gl.RGBA, gl.UNSIGNED_BYTE, pixels);
  let number = 0;
  for (let i = 0; i < pixels.length; i += 4) {
    if ((i / 4) % width < width * part) number += pixels[i + 2] > pixels[i] + 60;
  }
  return number;
}
function note(what) { said.push([what, byId("status").textContent, blue()]); }
function key(name) {
  document.body.dispatchEvent(new KeyboardEvent("keydown", { key: name, bubbles: true }));
  note(name);
}
const waiting = setInterval(() => {
  if (byId("status").dataset.state === "loading") return;
  clearInterval(waiting);
  note(byId("status").dataset.state);
  said.push(["left half", "", blue(0.5)]);
  try {
    key("3"); key("ArrowUp"); key("m"); key("m");
    const { left, top, width, height } = canvas.getBoundingClientRect();
    const middle = { clientX: left + width / 2, clientY: top + height / 2, bubbles: true };
    canvas.dispatchEvent(new MouseEvent("mousemove", middle));
    canvas.dispatchEvent(new WheelEvent("wheel", { ...middle, deltaY: -100, cancelable: true }));
    note("wheel");
    byId("slice").value = 4;
    byId("slice").dispatchEvent(new Event("input")); note("slider");
    document.querySelector('[data-class="IPH"]').click(); note("click");
    document.querySelector('[data-class="IPH"]').click(); note("click");
    location.hash = "slice=1&window=subdural&hide=IPH,SDH&view=multiplanar";
    readAddress(); note("address");
  } catch (error) { said.push(["error", String(error), 0]); }
  const out = document.createElement("pre");
  out.id = "said"; out.textContent = JSON.stringify(said); document.body.append(out);
}, 50);
</script></body>"""


def _status(html: str) -> str:
    found = re.search(r'<p id="status"[^>]*>([^<]*)<', html)
    return found[1] if found else ""


@pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed")
def test_the_page_in_a_browser(tmp_path: Path) -> None:
    """From the disk: it loads, and keys, boxes and the address change what is drawn."""
    assert CHROMIUM is not None
    page.write_page(tmp_path / "a.html", head(), report())
    start, _, end = (tmp_path / "a.html").read_text().rpartition("</body>")
    (tmp_path / "driven.html").write_text(start + DRIVER + end)
    flags = (
        "headless=new no-sandbox enable-unsafe-swiftshader disable-quic no-first-run "
        "disable-background-networking disable-component-update disable-sync dump-dom "
        f"user-data-dir={tmp_path / 'profile'} virtual-time-budget=20000 window-size=700,700"
    ).split()
    shown = subprocess.run(
        [CHROMIUM, *(f"--{flag}" for flag in flags), f"file://{tmp_path / 'driven.html'}"],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    found = re.search(r'<pre id="said">(.*?)</pre>', shown.stdout, re.DOTALL)
    if "This browser has no WebGL2, which the page needs: allow it" in _status(shown.stdout):
        pytest.skip("Chromium has no WebGL2 here")
    assert found is not None, _status(shown.stdout) + shown.stderr[-2000:]
    said = json.loads(unescape(found[1]))
    left_half = said.pop(1)[2]
    assert [step[0] for step in said[:5]] == ["ready", "3", "ArrowUp", "m", "m"], said
    text, blue = [step[1] for step in said], [step[2] for step in said]
    assert text[0] == "Slice 4 of 8 · brain window (level 40, width 80)"
    assert text[1].startswith("Slice 4 of 8 · bone window (level 480, width 2500)")
    assert text[2].startswith("Slice 5 of 8")
    # Radiological: what is on the right of the patient is on the left of the picture.
    assert left_half == blue[0]
    # The lesion is 9 x 11 of the 78 x 78 pixels, which fill the canvas; key M takes it away.
    assert min(*blue[:3], blue[4]) > 500 and blue[3] == 0
    (_, wheel, _), (_, slider, _), (_, clicked, gone), (_, again, back), address = said[5:]
    assert wheel.split(" of")[0] in ("Slice 4", "Slice 6") and slider.startswith("Slice 4 of 8")
    assert "hidden: IPH" in clicked and gone == 0 and "hidden" not in again and back > 500
    assert address[1].startswith("Slice 1 of 8 · subdural window (level 75, width 215)")
    assert "hidden: IPH, SDH" in address[1] and address[2] == 0
