"""Lay out the first page a newcomer should open: accuracy and compute side by side, then what was skipped.

TensorBoard's "Custom Scalars" tab reads tags as regular expressions, so one chart holds all layers.
"""

from hopscotch.report.numbers import Kinds

Chart = tuple[str, list[str]]
Layout = dict[str, dict[str, Chart]]


def chart_layout(kinds: Kinds) -> Layout:
    """Charts by category, only those for which the model has data."""

    def lines(*tags: str) -> Chart:
        return "Multiline", [f"{tag}$" for tag in tags]

    def layers(tag: str) -> Chart:
        return lines(rf"{tag}/layer_\d+")

    layout: Layout = {
        "Accuracy and compute": {
            "accuracy": lines("train/acc", "val/acc", "test/acc"),
            "compute fraction": lines(*(f"{split}/compute_fraction" for split in ("train", "val", "test"))),
            "loss": lines("train/loss", "val/loss", "test/loss"),
            "multiply-accumulates per clip": lines("train/macs", "val/macs", "test/macs"),
        }
    }
    if kinds.strides:
        layout["Skipped keys"] = {"mean stride by layer": layers("skip/stride")}
    if kinds.jumps:
        layout["Skipped layers"] = {
            "jumps per decision": lines("jump/rate", "train/jump_rate"),
            "share of layers skipped": lines("jump/skipped", "train/jump_skipped"),
            "share of clips that run a layer": layers("jump/visited"),
        }
    if kinds.gates:
        layout["Skipped tokens"] = {
            "open rate by layer": layers("gate/open_rate"),
            "threshold by layer": layers("gate/threshold"),
        }
    if kinds.decides:
        layout["Policy"] = {
            "entropy of a decision": lines("policy/entropy"),
            "different routes in use": lines("policy/routes"),
            "does compute go to hard clips?": lines("policy/rank_correlation"),
        }
    return layout
