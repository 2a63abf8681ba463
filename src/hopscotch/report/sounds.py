"""Let the clips of a report be heard: where their data are still there, and still the same."""

from collections.abc import Callable

import torch
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from hopscotch.data.audio import AudioFileError, rate_ratio, resampler
from hopscotch.data.datamodule import AudioDataModule
from hopscotch.registry import without_cache
from hopscotch.report.page import Raw, sound
from hopscotch.report.run_folder import RunFolder

MAX_SECONDS = 2.0  # of a clip, from its beginning
MAX_RATE = 16_000  # Hz; 30 clips of 2 s take 2.6 MB of the page at this rate


class Sounds:
    """Players for the test clips of a data module, by the names of the clips."""

    def __init__(self, data: AudioDataModule) -> None:
        self.data = data
        self.clips = {clip.name: clip for clip in data.clips["test"]}

    def player(self, name: str) -> Raw:
        if name not in self.clips:
            return Raw("")
        try:
            waveform = self.data.load(self.clips[name])
        except AudioFileError:  # it changed since the run: the fingerprint knows names and lengths
            return Raw("cannot be read")
        rate = self.data.sample_rate
        waveform = waveform[: round(MAX_SECONDS * rate)]
        if rate > MAX_RATE:
            waveform = resampler(*rate_ratio(rate, MAX_RATE))(waveform.to(torch.float32))
            rate = MAX_RATE
        return sound(waveform, rate, MAX_SECONDS)


def find_sounds(
    run: RunFolder, build: Callable[[DictConfig], AudioDataModule], overrides: list[str]
) -> tuple[Sounds | None, str]:
    """The sounds of a run, or None and the reason. `overrides` of the configuration say where the data are now."""
    if not run.clips:  # nothing to be heard
        return None, ""
    cfg = OmegaConf.create(without_cache(run.config))
    OmegaConf.set_struct(cfg, True)
    for override in overrides:
        key, equals, _ = override.partition("=")
        if not (equals and key.startswith("data.") and OmegaConf.select(cfg, key, default=...) is not ...):
            raise ValueError(f"An override must be data.<key>=value with a key of the run's config, got {override!r}.")
        cfg.merge_with_dotlist([override])
    try:
        cfg.data.cache_gib = 0.0  # a few clips are decoded, not all
        data = build(cfg)
        data.setup("test")
    except (ValueError, TypeError, OSError, HydraException, OmegaConfBaseException) as error:
        return None, f"Without sound, for the data could not be read: {' '.join(str(error).split())}"
    was = (run.summary.get("data") or {}).get("fingerprint")
    if was != data.fingerprint():
        known = f"{was}, now {data.fingerprint()}" if was else "not known"
        return None, f"Without sound, for the data may not be those of the run: their fingerprint was {known}."
    return Sounds(data), ""
