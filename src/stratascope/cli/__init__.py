"""The command line: a thin shell over the public API.

Commands are named here and loaded when they run, so that ``--help`` needs no torch.
"""

import re
import sys
import traceback
import warnings
from collections.abc import Sequence

from cyclopts import App, CycloptsError

from stratascope.errors import (
    MissingExtraError,
    SiteNotFoundError,
    StratascopeError,
    UsageError,
)

_WRONG_USAGE = (UsageError, SiteNotFoundError, MissingExtraError)
_REMEDIES = {
    "`stratascope.select(model, '**')` lists": "`stratascope sites MODEL` lists",
    "as example=(x,)": "as --input 1x3x224x224",
    "resume=True (--resume)": "--resume",
}
_COMMANDS = {
    "demo": "Train two small networks on real seismograms, capture, store and draw every layer.",
    "sites": "List the sites of a model: class, shape, parameters.",
    "extract": "Run a data set through a model and write what its sites hold to a store.",
    "run": "Run a training script as it is, and store what the sites of its network hold.",
    "trace": "Show every operation of one forward: shape, time, memory, the first NaN or Inf.",
    "info": "Show what a store holds: steps, sites, shapes, bytes, and where it comes from.",
    "verify": "Look for damage in a store, and repair it.",
    "compare": "Compare the sites of two stores, of two steps of one, or of one with each other.",
    "profile": "Measure every channel over a data set, and list what a person should look at.",
    "diagnose": "Look at what training does: landscapes, curvature, learning rates, optimizers.",
    "render": "Draw a store's activations: on ranges, in colours, side by side.",
    "seismic": "Train and test networks that turn seismic data into velocity maps.",
    "doctor": "Show versions, devices, extras and free disk space.",
}


def _version() -> str:
    from importlib.metadata import version

    return version("stratascope")


app = App(
    name="stratascope",
    help="See inside a neural network: capture what every layer makes of every input.\n\n"
    "--debug anywhere shows the traceback of an error.",
    version=_version,
    # Read as Markdown, the stars of 'enc.*' would be emphasis.
    help_format="plaintext",
    result_action="return_value",
    suppress_keyboard_interrupt=False,
)
for _name, _help in _COMMANDS.items():
    app.command(f"stratascope.cli._{_name}:{_name}", name=_name, help=_help)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        argv: The words after the program's name; None takes them from the system.

    Returns:
        0 when all went well, 1 when it failed, 2 when the command line was wrong; of a script that
        was run, its own.

    >>> main(["sites", "nowhere.py:model"])
    2
    """
    words = list(sys.argv[1:] if argv is None else argv)
    if words[:1] == ["run"]:
        from stratascope.cli._run import arrange_words

        words = arrange_words(words)
    # What follows a -- is a script's own.
    end = words.index("--") if "--" in words else len(words)
    debug = "--debug" in words[:end]
    words = [word for word in words[:end] if word != "--debug"] + words[end:]
    try:
        with warnings.catch_warnings():
            if not debug and words[:1] != ["run"]:
                warnings.showwarning = _show_note
            code = app(words, exit_on_error=False)
    except CycloptsError:
        return 2  # said already
    except KeyboardInterrupt as stop:
        _explain(["stopped", *getattr(stop, "__notes__", [])])
        return 1
    except BrokenPipeError:
        # The reader of a pipe, such as head, has seen enough.
        sys.stderr.close()
        return 0
    except Exception as error:  # noqa: BLE001 - the last place where an error becomes a sentence
        return _report(error, debug=debug)
    return code if isinstance(code, int) else 0


def _report(error: Exception, *, debug: bool) -> int:
    if debug:
        traceback.print_exception(error)
    elif isinstance(error, StratascopeError | ValueError | OSError):
        _explain([f"error: {_in_a_shell(str(error))}"])
    else:
        _explain([f"error: {type(error).__name__}: {error}", "--debug shows where it came from"])
    return 2 if isinstance(error, _WRONG_USAGE) else 1


def _in_a_shell(sentence: str) -> str:
    """Give a remedy in the words of the command line where it is one of Python."""
    for python, shell in _REMEDIES.items():
        sentence = sentence.replace(python, shell)
    first = r", or read those only, as store\[site\]\[0:(\d+)\]"
    return re.sub(first, r", or profile those only, with --limit \1", sentence)


def _explain(lines: list[str]) -> None:
    print(*lines, sep="\n", file=sys.stderr)  # noqa: T201 - this is what a command line does


def _show_note(message: Warning | str, *_: object) -> None:
    _explain([f"note: {message}"])
