"""The page in a browser: no request, no message, every picture visible, no horizontal overflow."""

import contextlib
import functools
import html
import http.server
import json
import os
import re
import shutil
import subprocess
import threading

import pytest

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
# Script for a copy of the page: after loading, it measures everything and posts the numbers to the outer frame.
SCRIPT = """<script>
addEventListener("load", () => {
  const width = document.documentElement.clientWidth, style = (x, name) => getComputedStyle(x)[name];
  const box = svg => { const b = svg.getBoundingClientRect(); return [b.width, b.height, svg.getBBox().width] };
  const inside = x => x.closest(".table") || x.closest("details") || x.closest("svg");
  parent.postMessage(JSON.stringify({
    width: width, scroll: document.documentElement.scrollWidth,
    images: [...document.images].map(image => image.complete ? image.naturalWidth : 0),
    pictures: [...document.querySelectorAll("figure svg")].map(box),
    shapes: [...document.querySelectorAll("figure svg")].map(svg => svg.querySelectorAll("path").length),
    outside: [...document.body.querySelectorAll("*")].filter(
      x => !inside(x) && x.getBoundingClientRect().right > width + 0.5).map(x => x.tagName),
    fetched: performance.getEntriesByType("resource").map(entry => entry.name),
    paper: style(document.body, "backgroundColor"), ink: style(document.body, "color"),
    panel: style(document.querySelector("figure"), "backgroundColor"),
    text: style(document.querySelector("figure svg"), "fill"),
  }), "*")
})
</script>"""
# A browser window has a minimum width, a frame has none. The frame holds the copy; its title receives the numbers.
FRAME = """<!DOCTYPE html><html><head><meta name="color-scheme" content="light dark"><title>nothing came</title>
<link rel="icon" href="data:,">
<script>addEventListener("message", event => { document.title = event.data })</script></head>
<body><iframe src="copy.html" style="border: 0; width: WIDTHpx; height: 900px"></iframe></body></html>"""


@pytest.fixture(scope="module")
def browser():
    found = os.environ.get("CHROME") or next(filter(None, map(shutil.which, BROWSERS)), None)
    if found is None:
        pytest.skip("no browser: install the package chromium (apt-get install chromium), or set CHROME to a binary")
    return found


@contextlib.contextmanager
def served(folder):
    """Serve the folder on this machine: yield its address and the list of requested paths."""
    asked = []

    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *args):
            pass

        def send_response(self, *args):
            asked.append(self.path)
            super().send_response(*args)

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Handler, directory=folder)) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}", asked
        server.shutdown()
        thread.join()


def check_convergence(browser, folder, address, *options):
    """Load the page in a headless browser; return its DOM and all error messages."""
    # These features are not needed, and print messages on a machine without a desktop.
    quiet = ("--disable-gpu", "--no-first-run", "--disable-extensions", "--disable-background-networking")
    words = [browser, "--headless=new", "--no-sandbox", *quiet, "--enable-logging=stderr", "--v=0", "--hide-scrollbars"]
    words += [f"--user-data-dir={folder / 'profile'}", "--window-size=1600,1000", "--dump-dom", *options]
    done = subprocess.run([*words, address], capture_output=True, text=True, timeout=120, check=True)
    return done.stdout, [line for line in done.stderr.splitlines() if "CONSOLE" in line or "net::" in line]


def measured(browser, folder, text, *options, width):
    """Measure a page, given as text, at a width; return the numbers, the error messages, and all further requests."""
    site = folder / "site"
    site.mkdir()
    # The page forbids scripts and external requests; the copy allows them, so that a request would be recorded.
    free = re.sub(r"<meta http-equiv=[^>]*>", "", text)
    assert free != text
    (site / "copy.html").write_text(free.replace("</body>", f"{SCRIPT}</body>"))
    (site / "frame.html").write_text(FRAME.replace("WIDTH", str(width)))
    with served(site) as (address, asked):
        dom, complaints = check_convergence(browser, folder, f"{address}/frame.html", *options)
    assert asked[:2] == ["/frame.html", "/copy.html"]
    return json.loads(html.unescape(re.search(r"<title>(.*?)</title>", dom)[1])), complaints, asked[2:]


def luminance(color):
    channels = [int(part) / 255 for part in re.findall(r"\d+", color)[:3]]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(first, second):
    low, high = sorted((luminance(first), luminance(second)))
    return (high + 0.05) / (low + 0.05)


def test_the_page_itself_opens_without_a_complaint(browser, made_report, tmp_path):
    dom, complaints = check_convergence(browser, tmp_path, (made_report[0] / "report.html").as_uri())
    assert complaints == []
    assert "<h1>Spectrum of the Hessian</h1>" in dom
    assert dom.count("<svg") == 13


@pytest.mark.slow
@pytest.mark.parametrize(("width", "dark"), [(400, False), (1200, True)])
def test_everything_is_seen_at_this_width(browser, made_report, tmp_path, width, dark):
    options = ("--blink-settings=preferredColorScheme=0",) if dark else ()
    text = (made_report[0] / "report.html").read_text()
    seen, complaints, asked = measured(browser, tmp_path, text, *options, width=width)
    assert complaints == []
    assert asked == []
    assert seen["width"] == width
    assert seen["scroll"] <= width
    assert seen["outside"] == []
    assert seen["fetched"] == []
    assert all(size > 0 for size in seen["images"])
    assert len(seen["pictures"]) == 13
    for (across, down, drawn), shapes in zip(seen["pictures"], seen["shapes"], strict=True):
        assert 250 < across <= width
        assert down > 100
        assert drawn > 100
        assert shapes > 10
    assert contrast(seen["paper"], seen["ink"]) > 7
    assert contrast(seen["panel"], seen["text"]) > 7
    assert (luminance(seen["paper"]) < 0.1) == dark


def test_the_check_would_see_a_picture_from_outside(browser, made_report, tmp_path):
    text = (made_report[0] / "report.html").read_text()
    bad = '</h1><img src="missing.png"><div style="width: 900px">wide</div><script>nothing()</script>'
    seen, complaints, asked = measured(browser, tmp_path, text.replace("</h1>", bad, 1), width=400)
    assert seen["images"] == [0]
    assert seen["scroll"] > 400
    assert seen["outside"] == ["DIV"]
    assert asked == ["/missing.png"]
    assert len(seen["fetched"]) == 1
    assert any("nothing is not defined" in line for line in complaints)
