import base64
import io
import re

import soundfile
import torch
from markupsafe import Markup

from hopscotch.report.page import link, render_html, sound
from hopscotch.report.paint import new_figure
from hopscotch.report.text import Table

SWEEP = {
    "headline": [("jobs", "1")],
    "warnings": ["<script>"],
    "beside": [],
    "frontier": None,
    "metric": "accuracy",
    "groups": Table([], []),
    "standing": Table([], []),
    "unfinished": Table(["job", "reason"], [[link("g & o", "e.html"), "<b>"]]),
    "shared": "",
    "jobs": Table(["x"], [[Markup("<audio></audio>")]]),
    "command": None,
}


def test_what_is_given_as_text_is_escaped_and_what_is_made_here_is_not() -> None:
    html = render_html("sweep.html.j2", SWEEP | {"title": "a < b"})
    assert "<title>a &lt; b</title>" in html
    assert '<div class="warning">&lt;script&gt;</div>' in html
    assert "<td>&lt;b&gt;</td>" in html
    assert '<a href="e.html">g &amp; o</a>' in html
    assert "<td><audio></audio></td>" in html


def test_a_page_asks_for_nothing_outside_of_itself() -> None:
    html = render_html(
        "sweep.html.j2", SWEEP | {"title": "t", "frontier": new_figure()[0], "unfinished": Table([], [])}
    )
    html += str(sound(torch.zeros(8), 8000))
    addresses = re.findall(r'(?:src|href)="([^"]*)"', html)
    assert len([address for address in addresses if address.startswith("data:")]) == 3
    assert all(address.startswith(("data:", "#part")) for address in addresses)
    assert "http" not in html.replace("http-equiv", "")


def test_sound_is_scaled_to_what_16_bits_hold() -> None:
    html = sound(torch.tensor([0.0, 2.0, -2.0, 1.0]), 4)
    (data,) = re.findall(r"base64,([^\"]*)", html)
    samples, rate = soundfile.read(io.BytesIO(base64.b64decode(data)))
    assert rate == 4
    assert abs(samples - [0.0, 1.0, -1.0, 0.5]).max() < 1e-4
