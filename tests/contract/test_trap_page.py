"""The page about traps says what the tests of every route through every trap hold.

To write the page anew after a change of the traps:

    PYTHONPATH=tests .venv/bin/python tests/contract/test_trap_page.py
"""

from pathlib import Path

from contract.routes import ROUTES
from contract.test_traps import SCRIPTED
from contract.traps import TRAPS

PAGE = Path(__file__).parents[2] / "docs" / "explanation" / "traps.md"

# A model that is not cut is one for which `submodel` stops: that column says it.
SHOWN = [route for route in ROUTES if route.name != "submodel-stop"]

HEAD = """# Traps

To read what a layer put out seems to take three lines: a hook, a dict, a forward. Then a network
writes in place, is compiled, calls itself or puts out a dataclass, and those lines give wrong
numbers, or none, mostly without a word. Here are {count} such traps: what each of them is, and what
becomes of a capture that does not think of it. Below stands what each route of this package does.

| Trap | What it is | A careless capture |
|---|---|---|
{traps}

## Each route through each trap

A mark means: the values and their structure, what the network put out, its parameters, buffers,
modes and hooks, and the state of the random numbers are bit for bit those of a forward in which
everything was cloned by hand. All else is an error that says why, or a warning. Each cell is
a test.

- `✓` right. Under `submodel` it says how: `graph`, cut out, or `stop`, run and left.
- `E` an error, `W` a warning, `–` no such thing; the number leads to the reason below.

{table}

{notes}

`stratascope run` goes through {scripted} as well, with a script that knows nothing of it.

## What nobody sees

- **A write past PyTorch** into memory that a NumPy array and a layer share: where somebody called
  `.numpy()` on what a layer put out before it was captured, and writes to that array. An array that
  is the *input* is no such case: it is copied when it is captured. See
  [copy on write](copy-on-write.md#limits).
- **What runs inside one call of PyTorch**, such as the steps of an LSTM, or inside TorchScript.
- **A branch that was not taken.** It has no value; a tap that waited for one says so at its end.
"""


class Notes:
    """Numbers reasons in the order in which they come."""

    def __init__(self):
        self.reasons = []

    def number(self, reason):
        if reason not in self.reasons:
            self.reasons.append(reason)
        return self.reasons.index(reason) + 1


def write_cell(trap, route, notes):
    if route.name in trap.left_out:
        return f"– {notes.number(trap.left_out[route.name])}"
    if route.name in trap.broken:
        return f"E {notes.number(f'Not yet: {trap.broken[route.name]}')}"
    refusal = trap.refused.get(route.name)
    if refusal is not None:
        letter = "W" if issubclass(refusal.error, Warning) else "E"
        return f"{letter} {notes.number(f'`{refusal.error.__name__}`: {refusal.why}')}"
    if trap.fused and route.watches:
        return f"✓ {notes.number('watched operations run unfused, so the last bits are others')}"
    return f"✓ {trap.method}" if route.name == "submodel" else "✓"


def write_page():
    """The page as it should be."""
    notes = Notes()
    rows = [
        [f"`{trap.name}`", *(write_cell(trap, route, notes) for route in SHOWN)] for trap in TRAPS
    ]
    heads = [["Trap", *(route.title for route in SHOWN)], ["---", *(":-:" for _ in SHOWN)]]
    table = "\n".join(f"| {' | '.join(row)} |" for row in [*heads, *rows])
    listed = [f"`{trap.name}`" for trap in TRAPS if trap.name in SCRIPTED]
    return HEAD.format(
        count=len(TRAPS),
        traps="\n".join(f"| `{trap.name}` | {trap.what} | {trap.elsewhere} |" for trap in TRAPS),
        table=table,
        notes="\n".join(f"{number}. {reason}" for number, reason in enumerate(notes.reasons, 1)),
        scripted=f"{', '.join(listed[:-1])} and {listed[-1]}",
    )


def test_the_page_says_what_the_tests_hold():
    assert PAGE.read_text(encoding="utf-8") == write_page(), (
        "docs/explanation/traps.md is not what tests/contract/traps.py says; write it anew with "
        "`PYTHONPATH=tests .venv/bin/python tests/contract/test_trap_page.py`"
    )


if __name__ == "__main__":
    PAGE.write_text(write_page(), encoding="utf-8")
