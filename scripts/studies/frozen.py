"""Compare the exits of a frozen encoder with static cuts of it, each of which has a head that was trained alone.

    python -m scripts.studies frozen backbone=whisper backbone.weights=<folder> data=esc50 data.root=<esc50> --seeds 3

The words are those of a training. Every clip goes through the encoder once (models/memory.py; kept in data.cache_dir);
heads then learn on what is remembered. A cut at exit k has the head of exit k alone; exits learn as in a training
(training/exits.py), their thresholds and temperatures from validation clips. Each budget is the mean MACs of a cut.
An interval is of the difference over test clips, paired, of all seeds together; heads of the epoch with the least
validation loss are tested.
"""

import argparse
import copy
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hopscotch.build import build_data, build_model
from hopscotch.config.compose import compose
from hopscotch.data.datamodule import SPLITS, AudioDataModule
from hopscotch.data.index import user_cache
from hopscotch.layers.exits import log_odds
from hopscotch.models.exits import SUMMARY_ROWS, EarlyExit
from hopscotch.models.memory import SUFFIX, Memory
from hopscotch.start import start_from_backbone
from hopscotch.training.exits import fit_temperatures, fit_thresholds, leaving
from hopscotch.training.remember import fingerprint

BATCH, DRAWS = 32, 2000  # clips of a step, and of the bootstrap


class Clips(NamedTuple):
    """Hold a split."""

    summaries: Tensor  # clip size
    labels: Tensor
    macs: Tensor  # clip exit


def main(arguments: Sequence[str]) -> None:
    """Encode, train heads, and print a table."""
    parser = argparse.ArgumentParser(prog="frozen", description=__doc__)
    parser.add_argument("words", nargs="+", help="as of a training, with backbone.weights")
    parser.add_argument("--seeds", type=int, default=3, help="of heads and their order of clips")
    parser.add_argument("--epochs", type=int, default=40, help="passes over the training clips")
    parser.add_argument("--lr", type=float, default=1e-3, help="peak learning rate")
    given = parser.parse_args(arguments)
    cfg = compose([*given.words, "augment=none", "model=exits_every_layer"])
    torch.manual_seed(0)
    data = build_data(cfg)
    data.setup("fit")
    model = build_model(cfg, data.num_classes)
    assert isinstance(model, EarlyExit)
    start_from_backbone(Path(cfg.backbone.weights), model)
    splits = encoded(model.eval(), data, Path(cfg.data.get("cache_dir") or user_cache()) / "states")
    rows: dict[str, list[tuple[Tensor, Tensor]]] = {}  # of each seed: right, and MACs, of test clips
    for seed in range(given.seeds):
        train = lambda heads, loss: trained(heads, splits, loss, given.epochs, given.lr, seed)  # noqa: E731, B023
        for name, found in compared(model, splits, train).items():
            rows.setdefault(name, []).append(found)
    tell(rows, model.exits.number)


def encoded(model: EarlyExit, data: AudioDataModule, folder: Path) -> list[Clips]:
    """Run the encoder on all clips, once ever."""
    memory = Memory(model.summary_size, 8.0, folder / f"{fingerprint(model)}{SUFFIX}")
    found, started = [], time.perf_counter()
    with torch.no_grad():
        for split in SPLITS:
            parts = []
            for start in range(0, len(data.clips[split]), BATCH):
                here = range(start, min(start + BATCH, len(data.clips[split])))
                waves = [data.waveform(split, index) for index in here]
                lengths = torch.tensor([len(wave) for wave in waves])
                rows = memory.recall(nn.utils.rnn.pad_sequence(waves, batch_first=True), lengths, model.summaries)
                labels = torch.tensor([data.clips[split][index].label for index in here])
                parts.append((rows, labels, model.costs(lengths)[0]))
            found.append(Clips(*(torch.cat(part) for part in zip(*parts, strict=True))))
            memory.save(8.0)
    print(f"{sum(len(clips.labels) for clips in found)} clips in {time.perf_counter() - started:.0f} s")
    return found


def logits_of(heads: Any, summaries: Tensor) -> Tensor:
    """Return (clip, exit, class) of all heads."""
    parts = summaries.chunk(len(heads), dim=1)  # all exits have the width of the layers
    rows = (part.unflatten(1, (SUMMARY_ROWS, -1)) for part in parts)
    return torch.stack(
        [head.linear(head.dropout(head.pooled_of(row))) for head, row in zip(heads, rows, strict=True)], dim=1
    )


def trained(
    parts: nn.ModuleList,
    splits: list[Clips],
    loss_of: Callable[[Tensor, Tensor], Tensor],
    epochs: int,
    lr: float,
    seed: int,
) -> None:
    """Train heads, and leave them as they were after the epoch with the least validation loss."""
    train, val, _ = splits
    torch.manual_seed(seed)
    optimizer = torch.optim.AdamW(parts.parameters(), lr=lr, weight_decay=0.01)
    steps = epochs * -(-len(train.labels) // BATCH)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    least, best = float("inf"), copy.deepcopy(parts.state_dict())
    for _ in range(epochs):
        parts.train()
        for rows in torch.randperm(len(train.labels)).split(BATCH):
            optimizer.zero_grad()
            loss_of(train.summaries[rows], train.labels[rows]).backward()
            optimizer.step()
            schedule.step()
        parts.eval()
        with torch.no_grad():
            loss = float(loss_of(val.summaries, val.labels))
        if loss < least:
            least, best = loss, copy.deepcopy(parts.state_dict())
    parts.load_state_dict(best)


def compared(model: EarlyExit, splits: list[Clips], train: Callable[..., None]) -> dict[str, tuple[Tensor, Tensor]]:
    """Train cuts and exits; return which test clips each gets right, and the MACs of each."""
    _, val, test = splits
    found = {}
    for number, head in enumerate(model.heads):
        alone = nn.ModuleList([copy.deepcopy(head)])
        size = test.summaries.shape[1] // len(model.heads)
        own = slice(number * size, (number + 1) * size)

        def cut_loss(rows: Tensor, labels: Tensor, alone: nn.ModuleList = alone, own: slice = own) -> Tensor:
            return F.cross_entropy(logits_of(alone, rows[:, own])[:, 0], labels)

        train(alone, cut_loss)
        with torch.no_grad():
            said = logits_of(alone, test.summaries[:, own])[:, 0].argmax(dim=1)
        heads_before = sum(other.linear.weight.numel() for other in model.heads[:number])
        found[f"cut {number}"] = said == test.labels, test.macs[:, number] - heads_before
    joint: Any = copy.deepcopy(nn.ModuleList([*model.heads, model.exits]))

    def joined(rows: Tensor) -> Tensor:
        logits, before, said = logits_of(nn.ModuleList(list(joint)[:-1]), rows), None, []
        for number in range(logits.shape[1]):
            before = joint[-1].join(number, before, logits[:, number])
            said.append(before.log_probs)
        return torch.stack(said, dim=1)

    def exits_loss(rows: Tensor, labels: Tensor) -> Tensor:
        said = joined(rows)
        losses = [F.nll_loss(one, labels) for one in said.unbind(dim=1)]
        apart = [F.kl_div(one, said[:, -1].detach(), log_target=True, reduction="batchmean") for one in said.unbind(1)]
        return losses[-1] + sum((own + far) / 2 for own, far in zip(losses[:-1], apart[:-1], strict=True))

    train(joint, exits_loss)
    with torch.no_grad():
        heard, judged = joined(val.summaries), joined(test.summaries)
    temperatures = fit_temperatures(heard, val.labels)
    heard, judged = ((one / temperatures[:, None]).log_softmax(dim=-1) for one in (heard, judged))
    wrong = 1 - heard.exp().gather(2, val.labels[:, None, None].expand(-1, heard.shape[1], 1)).squeeze(2)
    for number in range(heard.shape[1]):
        name, most = f"cut {number}", float(test.macs[:, -1].double().mean())
        found[f"exit {number} for all"] = judged[:, number].argmax(1) == test.labels, test.macs[:, number]
        target = float(found[name][1].double().mean()) / most
        shares = val.macs.double() / float(val.macs[:, -1].double().mean())
        places = log_odds(heard[:, :-1]).double().numpy(), wrong.double().numpy(), shares.numpy()
        thresholds = fit_thresholds(*places, target)
        exits = torch.from_numpy(leaving(log_odds(judged[:, :-1]).double().numpy(), thresholds, 0.0))
        rows = torch.arange(len(exits))
        found[f"exits at {number}"] = judged[rows, exits].argmax(1) == test.labels, test.macs[rows, exits]
    return found


def tell(rows: dict[str, list[tuple[Tensor, Tensor]]], number: int) -> None:
    """Print accuracies, MACs, and differences with intervals over clips."""
    right = {name: torch.stack([one[0].double() for one in found]) for name, found in rows.items()}  # seed clip
    macs = {name: float(torch.stack([one[1].double() for one in found]).mean()) / 1e6 for name, found in rows.items()}
    lines = []
    for place in range(number):
        cut, exits, whole = f"cut {place}", f"exits at {place}", f"exit {place} for all"
        gap = (right[exits] - right[cut]).mean(dim=0)
        drawn = gap[torch.randint(len(gap), (DRAWS, len(gap)))].mean(dim=1)
        low, high = (float(drawn.quantile(share)) for share in (0.025, 0.975))
        accuracy = {name: float(right[name].mean()) for name in (cut, exits, whole)}
        lines.append(
            (
                str(place),
                f"{macs[cut]:.1f}",
                f"{accuracy[cut]:.4f}",
                f"{macs[exits]:.1f}",
                f"{accuracy[exits]:.4f}",
                f"{float(gap.mean()):+.4f} ({low:+.4f} to {high:+.4f})",
                f"{accuracy[whole]:.4f}",
            )
        )
    head = ("layers", "M MACs, cut", "cut alone", "M MACs, exits", "exits", "exits - cut", "that exit for all")
    print("\n".join("| " + " | ".join(line) + " |" for line in (head, ("---",) * len(head), *lines)))
