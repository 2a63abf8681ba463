"""Take pictures of a dashboard and of the HTML reports in a headless browser, to look at what a user will see.

    python -m scripts.studies screenshots outputs/<run> pictures

    report         pictures/report_1400_light.png
    ...
    custom_scalars pictures/custom_scalars.png
    ...

A report (of a run or of a sweep, where there is one) is taken wide and narrow, light and dark; whatever its page says
on the browser's console is printed, and makes the exit code 1. Needs Chromium (Debian: apt-get install chromium) and
starts a TensorBoard of its own on a free port.
"""

import argparse
import itertools
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Sequence
from pathlib import Path

REPORTS = ("report/index.html", "index.html")  # of a run, of a sweep
WIDTHS = (1400, 400)  # pixels
SCHEMES = {"light": 1, "dark": 0}  # Blink's numbers for the preferred colour scheme
TABS = ("custom_scalars", "timeseries", "scalars", "images", "histograms", "text", "audio", "hparams")
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
)
START_SECONDS = 60  # until TensorBoard must answer
LOAD_MILLISECONDS = 20_000  # of the page's own clock, for its requests and drawing
NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")


def main(words: Sequence[str]) -> None:
    """Run `python -m scripts.studies screenshots`."""
    parser = argparse.ArgumentParser(
        "python -m scripts.studies screenshots",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("logdir", type=Path, help="a run's folder, or a sweep's")
    parser.add_argument("pictures", type=Path, help="folder to put the pictures into")
    parser.add_argument(
        "--tabs", nargs="*", default=TABS, choices=TABS, help="of the dashboard; none: the report alone"
    )
    parser.add_argument("--size", default="1400,2200", help="width,height of the dashboard in pixels")
    parser.add_argument("--height", type=int, default=3000, help="of the report in pixels")
    arguments = parser.parse_args(words)
    browser = next(filter(None, map(shutil.which, NAMES)), None)
    if browser is None:
        sys.exit("No Chromium found. On Debian: apt-get install chromium")
    arguments.pictures.mkdir(parents=True, exist_ok=True)
    said = [
        line
        for page in REPORTS
        for line in photograph_report(browser, arguments.logdir / page, arguments.pictures, arguments.height)
    ]
    if arguments.tabs:
        photograph_tabs(browser, arguments)
    if said:
        sys.exit("\n".join(said))


def photograph_report(browser: str, page: Path, pictures: Path, height: int) -> list[str]:
    """Take a picture for every width and scheme, and return what the browser's console was told."""
    said = []
    for width, (scheme, number) in itertools.product(WIDTHS, SCHEMES.items()) if page.is_file() else ():
        picture = pictures / f"report_{width}_{scheme}.png"
        flags = [f"--blink-settings=preferredColorScheme={number}", "--enable-logging=stderr"]
        output = photograph(browser, page.absolute().as_uri(), picture, f"{width},{height}", *flags)
        said += [f"{page}: {line}" for line in output.splitlines() if "CONSOLE" in line]
        print(f"{'report':<14} {picture}", flush=True)
    return said


def photograph_tabs(browser: str, arguments: argparse.Namespace) -> None:
    port = free_port()
    server = start_tensorboard(arguments.logdir, port)
    try:
        wait_for(f"http://localhost:{port}/data/runs", server)
        for tab in arguments.tabs:
            picture = arguments.pictures / f"{tab}.png"
            photograph(browser, f"http://localhost:{port}/#{tab}", picture, arguments.size)
            print(f"{tab:<14} {picture}", flush=True)
    finally:
        server.terminate()
        server.wait()


def free_port() -> int:
    with socket.socket() as bound:
        bound.bind(("localhost", 0))
        return bound.getsockname()[1]


def start_tensorboard(logdir: Path, port: int) -> subprocess.Popen:
    command = [sys.executable, "-m", "tensorboard.main", "--logdir", str(logdir), "--port", str(port)]
    command += ["--samples_per_plugin", "images=100,audio=50", "--reload_interval", "5"]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def wait_for(address: str, server: subprocess.Popen) -> None:
    """Wait until the server answers and has found runs."""
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and server.poll() is None:
        try:
            if urllib.request.urlopen(address).read().strip() != b"[]":
                time.sleep(2)  # it shows a run as soon as it has read its first event
                return
        except OSError:
            pass
        time.sleep(0.5)
    sys.exit("TensorBoard did not start, or found no run in that folder.")


def photograph(browser: str, address: str, picture: Path, size: str, *flags: str) -> str:
    """Take a picture, and return what the browser wrote on standard error."""
    with tempfile.TemporaryDirectory() as profile:
        command = [browser, *FLAGS, f"--user-data-dir={profile}", f"--window-size={size}", *flags]
        command += [f"--virtual-time-budget={LOAD_MILLISECONDS}", f"--screenshot={picture}", address]
        done = subprocess.run(command, check=True, timeout=120, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    return done.stderr.decode(errors="replace")
