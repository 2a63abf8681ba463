"""Whisper's encoder: frames and states as the paper defines them, weights of both kinds, and what is refused."""

import json
import math
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional as F

from hopscotch.build import build_model
from hopscotch.config.compose import compose
from hopscotch.config.errors import ConfigError
from hopscotch.models.audio_model import AudioModel
from hopscotch.models.exits import EarlyExit
from hopscotch.models.stack import Stack
from hopscotch.restore import restore
from hopscotch.shared import export
from hopscotch.start import start_from_backbone
from hopscotch.whisper_mel import WhisperMel
from tests.tiny import TINY_RUN, Command, tiny_folder

DIM, HEADS, DEPTH, MELS = 16, 2, 3, 80
POSITIONS = 1500
RATE, HOP = 16_000, 160
LENGTHS = (9_001, 4_000, 16_320)


def drawn(seed: int = 0) -> dict[str, Tensor]:
    """Random weights of a small encoder, by names of Hugging Face."""
    generator = torch.Generator().manual_seed(seed)

    def some(*shape: int, scale: float = 0.3) -> Tensor:
        return scale * torch.randn(*shape, generator=generator)

    found = {
        "conv1.weight": some(DIM, MELS, 3),
        "conv1.bias": some(DIM),
        "conv2.weight": some(DIM, DIM, 3),
        "conv2.bias": some(DIM),
        "embed_positions.weight": some(POSITIONS, DIM),
        "layer_norm.weight": 1 + some(DIM),
        "layer_norm.bias": some(DIM),
    }
    for layer in range(DEPTH):
        shapes = {"q_proj": (DIM, DIM), "k_proj": (DIM, DIM), "v_proj": (DIM, DIM), "out_proj": (DIM, DIM)}
        named = {f"self_attn.{name}": shape for name, shape in shapes.items()}
        for name, shape in (named | {"fc1": (4 * DIM, DIM), "fc2": (DIM, 4 * DIM)}).items():
            found[f"layers.{layer}.{name}.weight"] = some(*shape)
            if name != "self_attn.k_proj":
                found[f"layers.{layer}.{name}.bias"] = some(shape[0])
        for name in ("self_attn_layer_norm", "final_layer_norm"):
            found[f"layers.{layer}.{name}.weight"] = 1 + some(DIM)
            found[f"layers.{layer}.{name}.bias"] = some(DIM)
    return found


def write_whisper(folder: Path, *, prefix: str = "model.encoder.", **changes: Any) -> Path:
    """A folder of Hugging Face's, with a decoder's weight that nobody reads."""
    folder.mkdir()
    config = {
        "model_type": "whisper",
        "num_mel_bins": MELS,
        "d_model": DIM,
        "encoder_layers": DEPTH,
        "encoder_attention_heads": HEADS,
        "encoder_ffn_dim": 4 * DIM,
    }
    (folder / "config.json").write_text(json.dumps(config | changes))
    weights = {prefix + name: tensor for name, tensor in drawn().items()}
    save_file(weights | {"model.decoder.embed_tokens.weight": torch.zeros(4, DIM)}, folder / "model.safetensors")
    return folder


def write_openai(file: Path) -> Path:
    """The same encoder as OpenAI writes it."""
    names = {
        "embed_positions.weight": "positional_embedding",
        "layer_norm.": "ln_post.",
        "self_attn_layer_norm": "attn_ln",
        "final_layer_norm": "mlp_ln",
        "layers.": "blocks.",
        "fc1": "mlp.0",
        "fc2": "mlp.2",
        "self_attn.out_proj": "attn.out",
        "self_attn.q_proj": "attn.query",
        "self_attn.k_proj": "attn.key",
        "self_attn.v_proj": "attn.value",
    }
    state = {}
    for name, tensor in drawn().items():
        for theirs, ours in names.items():
            if theirs != "layer_norm." or name.startswith(theirs):
                name = name.replace(theirs, ours)
        state[f"encoder.{name}"] = tensor
    dims = {"n_mels": MELS, "n_audio_ctx": POSITIONS, "n_audio_state": DIM, "n_audio_head": HEADS}
    torch.save({"dims": dims | {"n_audio_layer": DEPTH}, "model_state_dict": state}, file)
    return file


def make(path: Path, *words: str) -> AudioModel:
    cfg = compose(["backbone=whisper", f"backbone.weights={path}", "model.dropout=0", *words])
    torch.manual_seed(0)
    model = build_model(cfg, num_classes=3)
    start_from_backbone(path, model)
    return model.eval()


def reference_mel(wave: Tensor, seconds: float = 30.0) -> Tensor:
    """Frames by their definition: a clip filled up with zeros, a Fourier sum for each, bands of Slaney's scale."""
    num_frames = len(wave) // HOP
    padded = F.pad(wave, (0, int(seconds * RATE) - len(wave))).double()
    padded = F.pad(padded[None, None], (200, 200), mode="reflect")[0, 0]
    window = 0.5 - 0.5 * torch.cos(2 * math.pi * torch.arange(400, dtype=torch.float64) / 400)
    angles = 2 * math.pi * torch.outer(torch.arange(201).double(), torch.arange(400).double()) / 400
    frames = padded.unfold(0, 400, HOP)[:num_frames] * window
    power = (frames @ angles.cos().T) ** 2 + (frames @ angles.sin().T) ** 2

    def mel_of(hertz: float) -> float:
        return hertz * 3 / 200 if hertz < 1000 else 15 + 27 * math.log(hertz / 1000) / math.log(6.4)

    def hertz_of(mel: float) -> float:
        return mel * 200 / 3 if mel < 15 else 1000 * 6.4 ** ((mel - 15) / 27)

    edges = [hertz_of(mel_of(8000.0) * place / (MELS + 1)) for place in range(MELS + 2)]
    bands = torch.zeros(201, MELS, dtype=torch.float64)
    for band in range(MELS):
        low, middle, high = edges[band : band + 3]
        for place in range(201):
            hertz = 40.0 * place
            height = min((hertz - low) / (middle - low), (high - hertz) / (high - middle))
            bands[place, band] = max(0.0, height) * 2 / (high - low)
    logs = (power @ bands).clamp(min=1e-10).log10()
    return (logs.clamp(min=float(logs.max()) - 8) + 4) / 4


def reference_states(mel: Tensor) -> list[Tensor]:
    """States after the stem and after every layer, and the last under its norm, of one clip."""
    weights = drawn()

    def linear(x: Tensor, name: str) -> Tensor:
        return F.linear(x, weights[f"{name}.weight"], weights.get(f"{name}.bias"))

    def norm(x: Tensor, name: str) -> Tensor:
        return F.layer_norm(x, (DIM,), weights[f"{name}.weight"], weights[f"{name}.bias"])

    x = F.gelu(F.conv1d(mel.T[None], weights["conv1.weight"], weights["conv1.bias"], padding=1))
    x = F.gelu(F.conv1d(x, weights["conv2.weight"], weights["conv2.bias"], padding=1, stride=2))[0].T
    x = x + weights["embed_positions.weight"][: len(x)]
    found = [x]
    for layer in range(DEPTH):
        own = f"layers.{layer}"
        y = norm(x, f"{own}.self_attn_layer_norm")
        query, key, value = (
            linear(y, f"{own}.self_attn.{one}_proj").unflatten(1, (HEADS, -1)).transpose(0, 1) for one in "qkv"
        )
        scores = (query @ key.transpose(1, 2) / math.sqrt(DIM // HEADS)).softmax(dim=-1)
        x = x + linear((scores @ value).transpose(0, 1).flatten(1), f"{own}.self_attn.out_proj")
        x = x + linear(F.gelu(linear(norm(x, f"{own}.final_layer_norm"), f"{own}.fc1")), f"{own}.fc2")
        found.append(x)
    return [*found, norm(x, "layer_norm")]


def states(model: AudioModel, waveform: Tensor, lengths: Tensor) -> tuple[list[Tensor], Tensor]:
    """States of a batch as `reference_states` has them, and the number of positions of each clip."""
    assert isinstance(model.encoder, Stack)
    with torch.no_grad():
        mel, frames = model.frontend(waveform, lengths)
        x, positions = model.stem(mel, frames)
        found = [x]
        for layer in range(DEPTH):
            x = model.encoder.layer(layer, x, positions)
            found.append(x)
        return [*found, model.head.get_submodule("norm")(x)], positions


def clips(lengths: tuple[int, ...] = LENGTHS, size: int | None = None) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    waveform = torch.zeros(len(lengths), size or max(lengths))
    for clip, length in enumerate(lengths):
        swell = torch.sin(torch.arange(length) * 0.002 * (clip + 1)) ** 2
        waveform[clip, :length] = 0.2 * swell * torch.randn(length, generator=generator)
    return waveform, torch.tensor(lengths)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_whisper(tmp_path_factory.mktemp("weights") / "whisper")


def test_frames_are_those_of_the_paper_whatever_padding_follows() -> None:
    frontend = WhisperMel(sample_rate=RATE)
    waveform, lengths = clips()
    waveform[2, 6_000:9_000] = 0.0  # silence within a clip lies at the floor
    mel, frames = frontend(waveform, lengths)
    assert frames.tolist() == [length // HOP for length in LENGTHS]
    for clip, length in enumerate(LENGTHS):
        expected = reference_mel(waveform[clip, :length]).float()
        torch.testing.assert_close(mel[clip, : frames[clip]], expected, rtol=0, atol=2e-3)
        assert not mel[clip, frames[clip] :].any()
        alone, _ = frontend(waveform[clip : clip + 1, :length], lengths[clip : clip + 1])
        torch.testing.assert_close(alone[0], mel[clip, : frames[clip]], rtol=0, atol=1e-4)
    assert mel[2].amax() - mel[2].amin() == pytest.approx(2.0, abs=1e-5)  # 80 dB


def test_a_clip_shorter_than_a_window_has_a_frame() -> None:
    mel, frames = WhisperMel(sample_rate=RATE)(*clips((100,)))
    assert mel.shape == (1, 1, MELS)
    assert frames.tolist() == [1]
    assert mel.isfinite().all()


@pytest.mark.parametrize("kind", ["folder", "bare", "openai"])
def test_states_are_those_of_the_encoder_written_out(kind: str, folder: Path, tmp_path: Path) -> None:
    bare = tmp_path / "bare"
    path = {"folder": folder, "bare": bare, "openai": tmp_path / "tiny.pt"}[kind]
    if kind == "bare":
        write_whisper(bare, prefix="encoder.")  # of a model that was saved without what is around it
    if kind == "openai":
        write_openai(path)
    model = make(path)
    waveform, lengths = clips()
    found, positions = states(model, waveform, lengths)
    mel, frames = model.frontend(waveform, lengths)
    for clip in range(len(lengths)):
        expected = reference_states(mel[clip, : frames[clip]])
        assert len(expected[0]) == positions[clip] == -(-int(frames[clip]) // 2)
        for ours, theirs in zip(found, expected, strict=True):
            torch.testing.assert_close(ours[clip, : positions[clip]], theirs, rtol=1e-4, atol=1e-4)


def test_states_at_a_clips_own_length_are_those_of_30_seconds_with_the_padding_masked(folder: Path) -> None:
    model, (waveform, lengths) = make(folder), clips()
    short, positions = states(model, waveform, lengths)
    long, same = states(model, *clips(size=30 * RATE))
    assert same.tolist() == positions.tolist()
    assert long[0].shape[1] == POSITIONS
    for own, padded in zip(short, long, strict=True):
        for clip, size in enumerate(positions):
            torch.testing.assert_close(own[clip, :size], padded[clip, :size], rtol=1e-4, atol=1e-4)


def test_exits_stand_behind_the_stem_and_every_layer(folder: Path) -> None:
    model = make(folder)
    assert isinstance(model, EarlyExit)
    assert model.exits.number == 1 + DEPTH
    macs, dense = model.costs(torch.tensor([16_320]))
    frames, positions = 102, 51
    stem = frames * 3 * MELS * DIM + positions * 3 * DIM * DIM
    layer = positions * (4 * DIM * DIM + 8 * DIM * DIM) + 2 * positions * positions * DIM
    head = 3 * DIM * 3
    assert macs[0].tolist() == [stem + place * layer + (place + 1) * head for place in range(1 + DEPTH)]
    assert int(dense) == int(macs[0, -1])


@pytest.mark.parametrize("depth", [0, 2])  # 0: the stem alone
def test_a_cut_has_the_first_layers_and_a_norm_of_its_own(folder: Path, depth: int) -> None:
    model = make(folder, "model=dense", f"model.depth={depth}")
    whole, _ = states(make(folder), *clips())
    with torch.no_grad():
        x, _, _ = model.encoded(*model.frontend(*clips()))
    torch.testing.assert_close(x, whole[depth])
    assert torch.equal(model.head.get_parameter("norm.weight"), torch.ones(DIM))


def test_a_gate_of_tokens_and_strides_begin_as_the_trained_encoder(folder: Path) -> None:
    dense, (waveform, lengths) = make(folder, "model=dense"), clips()
    with torch.no_grad():
        x, positions, _ = dense.encoded(*dense.frontend(waveform, lengths))
        for words in (("model=dense", "model.open_rate=0.5"), ("model=learned_skip", "model.open_rate=null")):
            model = make(folder, *words)
            mel, frames = model.frontend(waveform, lengths)
            _, _, trace = model.encoded(mel, frames)
            y, _, _ = model.encoded(mel, frames, trace.decisions.skip_nothing())
            for clip, size in enumerate(positions):
                torch.testing.assert_close(y[clip, :size], x[clip, :size], rtol=1e-4, atol=1e-4)


def test_a_clip_beyond_the_positions_is_refused(folder: Path) -> None:
    with pytest.raises(ValueError, match=r"positions for 30 s.* data\.max_seconds"):
        make(folder)(*clips((31 * RATE,)))


def test_weights_that_are_none_are_refused_by_name(tmp_path: Path) -> None:
    for words, message in {
        ("a", "d_model", 10**9): "d_model in .*config.json must be a whole number from 1 to",
        ("b", "d_model", 4096): "which come to .* weights or more",
        ("c", "model_type", "bert"): "without model_type=whisper",
        ("d", "encoder_layers", True): "encoder_layers in .* must be a whole number",
    }.items():
        name, key, value = words  # pyright: ignore[reportAssignmentType]
        path = write_whisper(tmp_path / name, **{key: value})
        with pytest.raises(ConfigError, match=message):
            compose(["backbone=whisper", f"backbone.weights={path}"])
    with pytest.raises(ConfigError, match=r"backbone\.weights must be a folder of config\.json and model\.safetensors"):
        compose(["backbone=whisper", f"backbone.weights={tmp_path / 'nothing'}"])


def test_a_file_that_is_no_safetensors_or_has_no_floats_is_refused(folder: Path, tmp_path: Path) -> None:
    model = make(folder)
    bad = write_whisper(tmp_path / "bad")
    content = (bad / "model.safetensors").read_bytes()
    (bad / "model.safetensors").write_bytes(content[: len(content) // 2])
    with pytest.raises(ValueError, match="must have a file of safetensors"):
        start_from_backbone(bad, model)
    save_file({"model.encoder.conv1.weight": torch.zeros(2, dtype=torch.int64)}, bad / "model.safetensors")
    with pytest.raises(ValueError, match=r"must be floats, got model\.encoder\.conv1\.weight of I64"):
        start_from_backbone(bad, model)
    save_file({"model.encoder.conv1.weight": torch.zeros(2)}, bad / "model.safetensors")
    with pytest.raises(ValueError, match="must have the layers of an encoder"):
        start_from_backbone(bad, model)
    small = {f"encoder.{name}": tensor[..., :8] for name, tensor in drawn().items()}
    save_file({name: tensor.contiguous() for name, tensor in small.items()}, bad / "model.safetensors")
    with pytest.raises(ValueError, match=r"backbone\.weights must be .* differs in the shape"):
        start_from_backbone(bad, model)


def test_a_pickle_that_names_more_than_tensors_is_not_loaded(tmp_path: Path) -> None:
    file = tmp_path / "tiny.pt"
    torch.save({"dims": {"n_mels": MELS}, "model_state_dict": Path("x")}, file)
    with pytest.raises(ConfigError, match=r"n_mels in .*tiny\.pt must be a whole number"):
        compose(["backbone=whisper", f"backbone.weights={file}"])


def test_another_front_end_or_rate_is_refused(folder: Path) -> None:
    with pytest.raises(ValueError, match="frontend must be whisper"):
        make(folder, "frontend=log_mel")
    with pytest.raises(ValueError, match=r"data\.sample_rate must be 16000 with frontend=whisper, got 8000"):
        make(folder, "data.sample_rate=8000")
    with pytest.raises(ValueError, match=r"stem_stride must be 2 with model\.backbone, got 4"):
        make(folder, "model.stem_stride=4")


def test_a_run_trains_heads_on_a_trained_encoder_and_needs_its_folder_no_more(
    tones: Path, tmp_path: Path, command: Command
) -> None:
    path, run = write_whisper(tmp_path / "whisper"), tmp_path / "run"
    words = ("trainer.freeze=[stem,encoder]", "augment=none", "trainer.max_epochs=2", "data.sample_rate=16000")
    words = (*tiny_folder(tones), *TINY_RUN, *words, f"hydra.run.dir={run}", f"data.cache_dir={tmp_path / 'cache'}")
    ended = command("experiment=finetune_whisper", "backbone.weights=whisper", *words)
    assert ended.code == 0, ended.err
    assert f"backbone.weights: {path}: loaded" in ended.out
    assert len(list((tmp_path / "cache" / "states").glob("*.states"))) == 1
    shutil.rmtree(path)
    restored = restore(run)
    weights, ours = drawn(), restored.model.state_dict()
    assert torch.equal(ours["stem.table"], weights["embed_positions.weight"])
    assert torch.equal(ours["encoder.blocks.2.ffn.0.weight"], weights["layers.2.fc1.weight"])
    assert not torch.equal(ours["head.norm.weight"], weights["layer_norm.weight"])
    assert (restored.cfg.model.dim, restored.cfg.model.depth, restored.cfg.frontend.num_mels) == (DIM, DEPTH, MELS)
    shared = export(run, tmp_path / "shared")
    assert str(tmp_path) not in (shared / "config.json").read_text()
