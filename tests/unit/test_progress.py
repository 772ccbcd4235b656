import io
import sys

import pytest

from stratascope import _progress
from stratascope._progress import ProgressBar


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def clock(monkeypatch):
    times = [0.0]
    monkeypatch.setattr(_progress.time, "monotonic", lambda: times[0])
    return times


@pytest.fixture
def show(clock, monkeypatch):
    """Run a bar through some moments, and tell what a stream got to see."""

    def run(*moments, enabled=True, total=100, stream=None):
        stream = stream or Terminal()
        # Here and not before: pytest sets its own stream when the test begins.
        monkeypatch.setattr(sys, "stderr", stream)
        monkeypatch.setenv("TERM", "xterm")
        monkeypatch.setenv("COLUMNS", "140")
        drive(clock, moments, total, enabled)
        return stream.getvalue()

    return run


def drive(clock, moments, total, enabled):
    with ProgressBar("extract", total, enabled=enabled) as bar:
        for seconds, done in moments:
            clock[0] = seconds
            bar.update(done, done * 1_000_000)


def test_a_terminal_shows_samples_speed_and_bytes(show):
    shown = show((1, 10), (4, 40), (5, 80))

    assert "extract" in shown
    assert "80/100" in shown
    assert "18 samples/s" in shown
    assert "80 MB on disk" in shown


def test_a_slow_speed_keeps_its_digits(show):
    assert "0.25 samples/s" in show((0, 0), (4, 1))


def test_what_was_there_before_a_resume_is_no_speed(show):
    shown = show((1, 90_000), (3, 90_020), (6, 90_050), total=100_000)

    assert "90050/100000" in shown
    assert "10 samples/s" in shown


def test_one_update_is_no_speed_yet(show):
    assert "samples/s" not in show((3, 40))


def test_what_is_quick_shows_nothing(show):
    assert show((0.1, 50), (1.9, 100)) == ""


def test_an_unknown_length_is_shown_too(show):
    assert "40/?" in show((3, 40), total=None)


def test_a_bar_that_is_off_shows_nothing(show):
    assert show((9, 40), enabled=False) == ""


def test_without_a_terminal_nothing_is_shown(show):
    assert show((9, 40), stream=io.StringIO()) == ""


def test_without_any_stream_nothing_fails(clock, monkeypatch):
    monkeypatch.setattr(sys, "stderr", None)
    drive(clock, [(9, 40)], 100, True)


def test_the_cursor_comes_back_when_the_work_fails(show):
    shown = io.StringIO()

    class Broken(Terminal):
        def write(self, text):
            return shown.write(text)

    with pytest.raises(TypeError, match="unsupported operand"):
        show((5, 1), (6, None), stream=Broken())
    assert shown.getvalue().endswith("\x1b[?25h")
