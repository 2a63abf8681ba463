import base64
import io
import re

import soundfile
import torch
from matplotlib.figure import Figure

from hopscotch.report.page import link, page, paragraph, picture, section, sound, table


def test_what_is_given_as_text_is_escaped_and_what_is_made_here_is_not() -> None:
    html = page("a < b", [section("c & d", paragraph("<script>"), table(["x"], [["<b>"], [link("go", "e.html")]]))])
    assert "<title>a &lt; b</title>" in html
    assert "c &amp; d" in html
    assert "<script>" not in html
    assert "&lt;b&gt;" in html
    assert '<a href="e.html">go</a>' in html


def test_a_page_asks_for_nothing_outside_of_itself() -> None:
    html = page("t", [picture(Figure(), "nothing"), sound(torch.zeros(8), 8000, 1.0)])
    addresses = re.findall(r'(?:src|href)="([^"]*)"', html)
    assert len(addresses) == 3
    assert all(address.startswith("data:") for address in addresses)
    assert "http" not in html.replace("http-equiv", "")


def test_sound_is_cut_and_scaled_to_what_16_bits_hold() -> None:
    html = sound(torch.tensor([0.0, 2.0, -2.0, 1.0, 9.0]), 4, 1.0)
    (data,) = re.findall(r"base64,([^\"]*)", html)
    samples, rate = soundfile.read(io.BytesIO(base64.b64decode(data)))
    assert rate == 4
    assert abs(samples - [0.0, 1.0, -1.0, 0.5]).max() < 1e-4
