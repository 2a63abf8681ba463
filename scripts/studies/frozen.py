"""Compare the exits of a frozen encoder with static cuts of it, each of which has a head that was trained alone.

    python -m scripts.studies frozen backbone=whisper backbone.weights=<folder> data=esc50 data.root=<esc50>
    python -m scripts.studies frozen ... --folds 1 2 3 4 5 --snr 0 20

The words are those of a training. Every clip goes through the encoder once (models/memory.py; kept in data.cache_dir);
heads then learn on what is remembered. A cut at exit k has the head of exit k alone; exits learn as in a training
(training/exits.py), their thresholds and temperatures from validation clips. Each budget is the mean MACs of a cut.
With `--folds` each fold is the test once, and figures are over the clips of all. With `--snr` every clip has another
one of its own split as noise, both drawn by its name, at a level between the two in dB: noise of the test is never
heard in training. Differences are of the same clips, seeds averaged; intervals are over clips or, where groups are
known, over groups. Heads of the epoch with the least validation loss are tested.
"""

import argparse
import copy
import random
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
import torchaudio.functional as AF
from torch import Tensor, nn

from hopscotch.build import build_data, build_model
from hopscotch.config.compose import compose
from hopscotch.data.datamodule import SPLITS, AudioDataModule, Split
from hopscotch.data.index import user_cache
from hopscotch.intervals import Units, bootstrap
from hopscotch.layers.exits import log_odds
from hopscotch.models.audio_model import SUMMARY_ROWS
from hopscotch.models.exits import EarlyExit
from hopscotch.models.memory import SUFFIX, Memory
from hopscotch.start import start_from_backbone
from hopscotch.training.exits import fit_temperatures, fit_thresholds, leaving
from hopscotch.training.remember import fingerprint

BATCH = 32  # clips of a step
Found = dict[str, tuple[Tensor, Tensor]]  # of each way: which test clips are right, and the MACs of each


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
    parser.add_argument("--folds", type=int, nargs="+", default=[], metavar="FOLD", help="test on each of them")
    parser.add_argument("--snr", type=float, nargs=2, default=None, metavar="DB", help="levels of noise, from and to")
    given = parser.parse_args(arguments)
    by_seed, groups = [list[Found]() for _ in range(given.seeds)], list[str | None]()
    for fold in given.folds or [None]:
        words = [*given.words, "augment=none", "model=exits_every_layer"]
        cfg = compose(words if fold is None else [*words, f"data.fold={fold}"])
        torch.manual_seed(0)
        data = build_data(cfg)
        data.setup("fit")
        model = build_model(cfg, data.num_classes)
        assert isinstance(model, EarlyExit)
        start_from_backbone(Path(cfg.backbone.weights), model)
        place = Path(cfg.data.get("cache_dir") or user_cache()) / "states"
        splits = encoded(model.eval(), data, place, given.snr)
        groups += [clip.shared for clip in data.clips["test"]]
        for seed, found in enumerate(by_seed):
            train = lambda heads, loss: trained(heads, splits, loss, given.epochs, given.lr, seed)  # noqa: E731, B023
            found.append(compared(model, splits, train))
    tell([joined_folds(found) for found in by_seed], Units.of(groups))


def encoded(model: EarlyExit, data: AudioDataModule, folder: Path, snr: Sequence[float] | None) -> list[Clips]:
    """Run the encoder on all clips, once ever."""
    memory = Memory(sum(model.summary_sizes), 8.0, folder / f"{fingerprint(model)}{SUFFIX}")
    found, started = [], time.perf_counter()
    with torch.no_grad():
        for split in SPLITS:
            parts = []
            for start in range(0, len(data.clips[split]), BATCH):
                here = range(start, min(start + BATCH, len(data.clips[split])))
                waves = [waveform(data, split, index, snr) for index in here]
                lengths = torch.tensor([len(wave) for wave in waves])
                rows = memory.recall(nn.utils.rnn.pad_sequence(waves, batch_first=True), lengths, model.summaries)
                labels = torch.tensor([data.clips[split][index].label for index in here])
                parts.append((rows, labels, model.costs(lengths)[0]))
            found.append(Clips(*(torch.cat(part) for part in zip(*parts, strict=True))))
            memory.save(8.0)
    print(f"{sum(len(clips.labels) for clips in found)} clips in {time.perf_counter() - started:.0f} s", flush=True)
    return found


def waveform(data: AudioDataModule, split: Split, index: int, snr: Sequence[float] | None) -> Tensor:
    """Return a clip, with noise if there are levels."""
    clip, clips = data.waveform(split, index), data.clips[split]
    if snr is None:
        return clip
    draw = random.Random(clips[index].name)
    other = data.waveform(split, (index + draw.randrange(1, len(clips))) % len(clips))
    noise = other.repeat(-(-len(clip) // len(other)))[: len(clip)]
    if not bool(noise.any()):
        return clip
    return AF.add_noise(clip, noise, torch.tensor(draw.uniform(*snr)))


def joined_folds(found: Sequence[Found]) -> Found:
    """Put the test clips of folds one behind the other."""
    return {
        name: (torch.cat([one[name][0] for one in found]), torch.cat([one[name][1] for one in found]))
        for name in found[0]
    }


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


def compared(model: EarlyExit, splits: list[Clips], train: Callable[..., None]) -> Found:
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


def tell(seeds: Sequence[Found], units: Units) -> None:
    """Print accuracies, MACs, and differences with their intervals."""
    right = {name: torch.stack([found[name][0].double() for found in seeds]) for name in seeds[0]}  # seed clip
    macs = {name: float(torch.stack([found[name][1].double() for found in seeds]).mean()) / 1e6 for name in seeds[0]}
    accuracy = {name: float(rows.mean()) for name, rows in right.items()}
    cuts = [name for name in right if name.startswith("cut ")]
    print(f"{right[cuts[0]].shape[1]} test clips, {units.words}; {len(seeds)} seeds")
    lines = []
    for place, cut in enumerate(cuts):
        exits, whole = f"exits at {place}", f"exit {place} for all"
        best = max(cuts[: place + 1], key=accuracy.__getitem__)
        gaps = [
            str(bootstrap((right[exits] - right[other]).mean(dim=0).numpy(), units)) for other in (cut, best, whole)
        ]
        figures = (f"{macs[cut]:.1f}", f"{accuracy[cut]:.4f}", f"{macs[exits]:.1f}", f"{accuracy[exits]:.4f}")
        lines.append((str(place), *figures, gaps[0], f"{best}: {gaps[1]}", f"{accuracy[whole]:.4f}", gaps[2]))
    names = ("layers", "M MACs, cut", "cut alone", "M MACs, exits", "exits", "exits - cut")
    head = (*names, "exits - best cut so far", "that exit for all", "exits - that")
    print("\n".join("| " + " | ".join(line) + " |" for line in (head, ("---",) * len(head), *lines)))
    last = f"exits at {len(cuts) - 1}"
    for place in range(len(cuts) - 1):
        lost = bootstrap((right[last] - right[f"exits at {place}"]).mean(dim=0).numpy(), units)
        print(f"exits at {macs[f'exits at {place}'] / macs[last]:.2f} of the MACs of all layers lose {lost}")
