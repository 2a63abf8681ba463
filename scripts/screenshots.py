"""Take pictures of a dashboard in a headless browser, to look at what a user will see.

    python scripts/screenshots.py outputs/<run> pictures

    scalars        pictures/scalars.png
    custom_scalars pictures/custom_scalars.png
    ...

Needs Chromium (Debian: apt-get install chromium) and starts a TensorBoard of its own on a free port.
"""

import argparse
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("logdir", type=Path, help="a run's folder, or a sweep's")
    parser.add_argument("pictures", type=Path, help="folder to put the pictures into")
    parser.add_argument("--tabs", nargs="+", default=TABS, choices=TABS)
    parser.add_argument("--size", default="1400,2200", help="width,height in pixels")
    arguments = parser.parse_args()
    browser = next(filter(None, map(shutil.which, NAMES)), None)
    if browser is None:
        sys.exit("No Chromium found. On Debian: apt-get install chromium")
    arguments.pictures.mkdir(parents=True, exist_ok=True)
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
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        return probe.getsockname()[1]


def start_tensorboard(logdir: Path, port: int) -> subprocess.Popen:
    command = [sys.executable, "-m", "tensorboard.main", "--logdir", str(logdir), "--port", str(port)]
    command += ["--samples_per_plugin", "images=100,audio=50", "--reload_interval", "5"]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def wait_for(address: str, server: subprocess.Popen) -> None:
    """Until the server answers and has found runs."""
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


def photograph(browser: str, address: str, picture: Path, size: str) -> None:
    with tempfile.TemporaryDirectory() as profile:
        command = [browser, *FLAGS, f"--user-data-dir={profile}", f"--window-size={size}"]
        command += [f"--virtual-time-budget={LOAD_MILLISECONDS}", f"--screenshot={picture}", address]
        subprocess.run(command, check=True, timeout=120, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


if __name__ == "__main__":
    main()
