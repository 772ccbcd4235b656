"""Real seismograms for the demonstration, out of what ObsPy packages, so nothing is downloaded."""

import glob
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from stratascope._optional import require
from stratascope.errors import DataError

if TYPE_CHECKING:
    from obspy import Stream

_EXAMPLE = "the example of obspy.read()"
# Recordings of earthquakes, volcanoes and the noise around them, and the channels that show them.
_FILES = {
    "io/seisan/tests/data/9701-30-1048-54S.MVO_21_1": "*Z",  # Montserrat, 1997
    "io/seisan/tests/data/90010319.1320J90": "S [ZNE]",  # Jan Mayen, 1990
    "io/seisan/tests/data/2011-09-06-1311-36S.A1032_001BH_Z.mseed": "*",
    "io/dmx/tests/data/131114_090600.dmx": "*",  # tremor of Etna, 2013
    "io/nied/tests/data/test.knet": "*",  # Japan, magnitude 5.9, 1996
    "io/gse2/tests/data/loc_RNON20040609200559.z": "*",  # Bavaria, 2004
    "io/gse2/tests/data/loc_STAU20031119011659.z": "*",  # Bavaria, 2003
    "io/gse2/tests/data/loc_RJOB20050831023349.z": "*",  # Bavaria, 2005
    "io/y/tests/data/YAYT_BHZ_20021223.124800": "*",  # Egypt, 2002
    "realtime/tests/data/II.TLY.BHZ.SAC": "*",  # Tohoku, magnitude 9, 2011, seen from Siberia
    "signal/tests/data/BW.UH1._.SHZ.D.2010.147.cut.slist.gz": "*",  # Bavaria, 2010, a pair
    "signal/tests/data/BW.UH3._.SHZ.D.2010.147.cut.slist.gz": "*",
    "signal/tests/data/BW.UH4._.EHZ.D.2010.147.cut.slist.gz": "*",
}
_LEAST_VALUES = 16  # a window with fewer distinct values shows the digitiser, not the ground
_MOST_IMAGES = 16
_RANGE = 1e-8  # power below this part of an image's maximum (80 dB) is cut off


@dataclass(frozen=True, slots=True, eq=False)
class Seismogram:
    """One channel of a recording.

    Attributes:
        name: Network, station, location and channel, such as ``BW.RJOB..EHZ``.
        sampling_rate: Samples a second.
        samples: Readings of the digitiser, float32 ``(L,)``.
        source: The file it is from.
    """

    name: str
    sampling_rate: float
    samples: np.ndarray
    source: str


def load_seismograms() -> tuple[list[Seismogram], list[str]]:
    """Read the seismograms that ObsPy packages.

    Returns:
        The seismograms, those of ``obspy.read()`` first, and the files that this ObsPy lacks.

    Raises:
        MissingExtraError: ObsPy is not installed.
    """
    obspy = _obspy()
    root = Path(obspy.__path__[0])
    seismograms = _seismograms(obspy.read(), _EXAMPLE)
    missing = []
    for source, channels in _FILES.items():
        path = root / source
        found = _seismograms(_read(obspy, path), path.name, channels) if path.is_file() else []
        seismograms += found
        if not found:
            missing.append(source)
    return seismograms, missing


def cut_windows(
    seismograms: Sequence[Seismogram], length: int = 256, step: int = 128
) -> tuple[np.ndarray, list[str]]:
    """Cut the seismograms into windows of zero mean and unit standard deviation.

    Each window is scaled by itself: the records differ by six orders of magnitude, and within one
    an arrival is up to a thousand times the noise, which a common scale would show as a flat line.
    Windows in which the digitiser hardly moved are left out.

    Args:
        seismograms: Whose samples to cut.
        length: Samples in a window.
        step: Samples from the start of one window to that of the next.

    Returns:
        The windows, float32 ``(N, 1, length)``, and where each is from: name and start in seconds.

    Raises:
        ValueError: The length is less than 2 or the step less than 1.
        DataError: No seismogram holds a window.

    >>> record = Seismogram("A", 10.0, np.arange(64, dtype=np.float32), "a file")
    >>> windows, labels = cut_windows([record], length=32, step=32)
    >>> windows.shape, labels
    ((2, 1, 32), ['A 0.0 s', 'A 3.2 s'])
    """
    for name, value, least in (("length", length, 2), ("step", step, 1)):
        if value < least:
            raise ValueError(f"{name} must be at least {least}, got {value}; enlarge it")
    windows, labels = [], []
    for seismogram in seismograms:
        if len(seismogram.samples) < length:
            continue
        cut = sliding_window_view(seismogram.samples.astype(np.float64), length)[::step]
        starts = np.flatnonzero(_distinct(cut) >= min(_LEAST_VALUES, length))
        windows.append(_standardised(cut[starts]))
        seconds = starts * step / seismogram.sampling_rate
        labels += [f"{seismogram.name} {second:.1f} s" for second in seconds]
    if not labels:
        raise DataError(
            f"the seismograms must hold a moving window of {length} samples, got none in "
            f"{len(seismograms)} seismograms; use a shorter length"
        )
    return np.concatenate(windows).astype(np.float32)[:, None], labels


def time_frequency_images(
    seismograms: Sequence[Seismogram], size: tuple[int, int] = (64, 64)
) -> tuple[np.ndarray, list[str]]:
    """Draw the arrival in the first seismogram of each file over time and frequency.

    The value is the logarithm of the power in a Hann window, scaled to zero mean and unit standard
    deviation. Time runs to the right and frequency upwards, so the last row is the lowest.

    Args:
        seismograms: Whose arrivals to draw; those too short for an image are left out.
        size: Frequencies and times of an image.

    Returns:
        The images, float32 ``(N, 1, *size)``, at most 16, and the name of what each shows.

    Raises:
        ValueError: The size is less than 2 frequencies or 2 times.
        DataError: No seismogram is long enough.

    >>> waves = np.sin(np.arange(3000, dtype=np.float32) ** 2)
    >>> images, labels = time_frequency_images([Seismogram("A", 10.0, waves, "a file")])
    >>> images.shape
    (1, 1, 64, 64)
    """
    rows, columns = size
    if rows < 2 or columns < 2:
        raise ValueError(f"size must be at least 2 x 2, got {rows} x {columns}; enlarge it")
    window = 2 * rows  # its spectrum has as many frequencies as the image has rows, and the mean
    first_of_file: dict[str, Seismogram] = {}
    for seismogram in seismograms:
        first_of_file.setdefault(seismogram.source, seismogram)
    images, labels = [], []
    for seismogram in first_of_file.values():
        samples = seismogram.samples.astype(np.float64)
        step = min(window // 4, (len(samples) - window) // (columns - 1))
        if step < 1 or len(images) == _MOST_IMAGES:
            continue
        span = window + step * (columns - 1)
        start = min(max(_arrival(samples) - span // 4, 0), len(samples) - span)
        images.append(_spectrogram(samples[start : start + span], window, step))
        labels.append(f"{seismogram.name} {start / seismogram.sampling_rate:.1f} s")
    if not images:
        raise DataError(
            f"a seismogram must have {window + columns - 1} samples for an image of {rows} x "
            f"{columns}, got none of {len(seismograms)}; use a smaller size"
        )
    return np.stack(images).astype(np.float32)[:, None], labels


def _obspy() -> ModuleType:
    with warnings.catch_warnings():
        # ObsPy asks for its plugins in a way that Python 3.11 warns of.
        warnings.filterwarnings("ignore", "SelectableGroups dict interface", DeprecationWarning)
        return require("obspy", extra="demo")


def _read(obspy: ModuleType, path: Path) -> "Stream":
    with warnings.catch_warnings():
        # SAC keeps the time between samples in single precision; ObsPy says that it rounds it.
        warnings.filterwarnings("ignore", "Sample spacing read from SAC file", UserWarning)
        return obspy.read(glob.escape(str(path)))


def _seismograms(stream: "Stream", source: str, channels: str = "*") -> list[Seismogram]:
    return [
        Seismogram(
            name=trace.id.replace(" ", "").lstrip("."),
            sampling_rate=float(trace.stats.sampling_rate),
            samples=np.asarray(trace.data, dtype=np.float32),
            source=source,
        )
        for trace in stream
        if fnmatchcase(trace.stats.channel, channels)
    ]


def _distinct(windows: np.ndarray) -> np.ndarray:
    return np.count_nonzero(np.diff(np.sort(windows, axis=1), axis=1), axis=1) + 1


def _standardised(values: np.ndarray) -> np.ndarray:
    values = values - values.mean(axis=-1, keepdims=True)
    return values / values.std(axis=-1, keepdims=True)


def _arrival(samples: np.ndarray) -> int:
    """The sample at which the power grows most: that of 1/64 of the record over that of 1/8."""
    power = np.diff(samples, prepend=samples[:1]) ** 2  # the difference damps slow ground motion
    total = np.concatenate([[0.0], np.cumsum(power)])
    short, long = max(len(samples) // 64, 1), max(len(samples) // 8, 1)
    at = np.arange(long, len(samples) - short)
    before = (total[at] - total[at - long]) / long
    after = (total[at + short] - total[at]) / short
    return int(at[np.argmax(after / (before + 1e-3 * power.mean() + 1e-30))])


def _spectrogram(samples: np.ndarray, window: int, step: int) -> np.ndarray:
    frames = sliding_window_view(samples, window)[::step]
    frames = (frames - frames.mean(axis=1, keepdims=True)) * np.hanning(window)
    power = np.abs(np.fft.rfft(frames, axis=1)[:, 1:]).T[::-1] ** 2
    decibel = np.log10(np.maximum(power, _RANGE * power.max() + 1e-30))
    spread = decibel.std()
    return (decibel - decibel.mean()) / (spread if spread > 0 else 1.0)
