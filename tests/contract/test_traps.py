"""Every route through every trap: the values that flowed, or an error that says why not."""

import asyncio
import contextlib
import gc
import os
import subprocess
import sys
import threading
import warnings
import weakref
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
import torch._dynamo
from torch import nn

from contract.routes import ROUTES, Stored, refuse_graph, same_part, same_stored
from contract.trap import flow_of
from contract.trap_networks import Meets
from contract.traps import TRAPS
from flows import frozen, is_pickled, same, structure
from stratascope.capture import _submodel

PLAIN_MODULE = nn.Module.__call__, nn.Module.__getattr__

# These run once more in a script that knows nothing of a capture.
SCRIPTED = [
    "relu-in-place", "write-through-view", "module-called-thrice", "lstm-tuple", "dict-output",
    "branches", "container-output", "batchnorm-counter", "fused-transformer", "dataclass-output",
    "dropout", "checkpoint",
]  # fmt: skip


class Play:
    """One network of a trap under one route."""

    def __init__(self, trap, route, folder):
        self.trap, self.route, self.folder = trap, route, folder
        self.model = trap.build()
        self.before = structure(self.model), is_pickled(self.model)
        self.session = self.output = self.drawn = self.random = None

    def steps(self):
        """Play, with pauses in which others may."""
        trap = self.trap
        args = trap.args()
        with trap.around(), self.route.open(trap, self.model, self.folder) as session:
            self.session = session
            torch.manual_seed(1)
            yield
            output = trap.use(session, *args)
            self.output = frozen(output)
            yield
            self.drawn = trap.finish(self.model, output, session.look)
        session.read()
        self.random = torch.get_rng_state()

    def run(self):
        for _ in self.steps():
            pass


def play_alone(make):
    make().run()


def play_in_threads(make):
    plays = [make(), make()]
    Meets.meeting = threading.Barrier(2)
    try:
        with ThreadPoolExecutor(2) as threads:
            list(threads.map(Play.run, plays))
    finally:
        Meets.meeting = None


def play_in_turns(make):
    async def take_turns(steps):
        for _ in steps:
            await asyncio.sleep(0)

    async def run_all():
        await asyncio.gather(*(take_turns(make().steps()) for _ in range(3)))

    asyncio.run(run_all())


def play_and_forget(make):
    # What is there already need not be looked through.
    gc.freeze()
    try:
        play = make()
        play.run()
        check(play, None)
        model = weakref.ref(play.model)
        del play
        make.made.clear()
        gc.collect()
    finally:
        gc.unfreeze()
    assert model() is None


SCENES = {
    "alone": play_alone,
    "threads": play_in_threads,
    "turns": play_in_turns,
    "forgotten": play_and_forget,
}


class Maker:
    """Makes the networks of a scene."""

    def __init__(self, trap, route, folder):
        self.trap, self.route, self.folder = trap, route, folder
        self.made = []

    def __call__(self):
        self.made.append(Play(self.trap, self.route, self.folder / str(len(self.made))))
        return self.made[-1]


def list_cells():
    for trap in TRAPS:
        for route in ROUTES:
            marks = []
            if route.name in trap.broken:
                marks = [pytest.mark.xfail(strict=True, reason=trap.broken[route.name])]
            if route.name not in trap.left_out:
                yield pytest.param(trap, route, id=f"{trap.name}-{route.name}", marks=marks)


@pytest.mark.parametrize(("trap", "route"), [*list_cells()])
def test_a_route_gives_what_flowed_or_says_why_not(trap, route, tmp_path, monkeypatch):
    if route.name == "submodel-stop":
        monkeypatch.setattr(_submodel, "cut_values", refuse_graph)
    make = Maker(trap, route, tmp_path)
    refusal = trap.refused.get(route.name)
    with warnings.catch_warnings():
        if trap.quiet:
            warnings.filterwarnings("ignore", message=trap.quiet)
        # Before there are several threads that ask for it.
        flow_of(trap)
        with refused(refusal):
            SCENES[trap.scene](make)
        for play in make.made:
            check(play, refusal)


def refused(refusal):
    if refusal is None:
        return contextlib.nullcontext()
    expect = pytest.warns if issubclass(refusal.error, Warning) else pytest.raises
    return expect(refusal.error, match=refusal.message)


def check(play, refusal):
    trap, route, session = play.trap, play.route, play.session

    assert (nn.Module.__call__, nn.Module.__getattr__) == PLAIN_MODULE
    assert torch._dynamo.eval_frame._stance.stance == "default"
    assert (structure(play.model), is_pickled(play.model)) == play.before
    if session is None:
        return
    flow = flow_of(trap, probed=route.probed, watched=trap.fused and route.watches)
    found, agree = session.found, same_stored if route.stores else same
    wrong = [key for key, value in found.items() if not agree(flow.values[key], value)]
    if refusal is not None and issubclass(refusal.error, Warning):
        # It has said that something is not stored.
        wrong = [key for key in wrong if not same_part(flow.values[key], found[key])]
    assert wrong == []
    if refusal is not None:
        return
    if route.name != "split":
        assert found.keys() == flow.values.keys()
    if route.exact:
        assert len(session.acts) == len(flow.values)
    for acts in session.beside:
        assert all(same(frozen(acts[name]), flow.values[key]) for name, key in flow.names.items())
    if play.output is not None:
        assert same(play.output, flow.output)
    if play.drawn is not None:
        assert same(play.drawn, flow.drawn)
    assert all(map(same, map(frozen, play.model.state_dict().values()), flow.numbers))
    assert torch.equal(play.random, flow.random)


SCRIPT = """
import sys
import torch
from contract.traps import TRAPS
from flows import frozen

kept, models = {}, []
for trap in TRAPS:
    if trap.name in sys.argv[1:]:
        models.append(trap.build())
        torch.manual_seed(1)
        with trap.around():
            output = models[-1](*trap.args())
            numbers = list(models[-1].state_dict().values())
            kept[trap.name] = frozen(output), frozen(numbers), torch.get_rng_state()
            # Only what runs twice is taken for a network of the script.
            models[-1](*trap.args())
torch.save(kept, "kept.pt")
"""


@pytest.fixture(scope="module")
def scripted(tmp_path_factory):
    """Run the script under ``stratascope run``; give what it kept, and where its stores are."""
    folder = tmp_path_factory.mktemp("scripted")
    (folder / "script.py").write_text(SCRIPT)
    words = ["run", "--sites", "**", "--every", "1", "--to", "run.zarr", "script.py", *SCRIPTED]
    subprocess.run(
        [sys.executable, "-m", "stratascope", *words],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])},
        check=True,
        capture_output=True,
    )
    names = [trap.name for trap in TRAPS if trap.name in SCRIPTED]
    stores = ["run.zarr", *(f"run-{number}.zarr" for number in range(2, len(names) + 1))]
    kept = torch.load(folder / "kept.pt", weights_only=False)
    return {name: (folder / store, *kept[name]) for name, store in zip(names, stores, strict=True)}


@pytest.mark.parametrize(
    "trap", [trap for trap in TRAPS if trap.name in SCRIPTED], ids=lambda trap: f"{trap.name}-run"
)
def test_a_script_gives_what_flowed(trap, scripted):
    path, output, numbers, random = scripted[trap.name]
    flow = flow_of(trap)
    store = Stored(path, step=0)
    found = {key: store[name] for name, key in flow.names.items()}
    agree = same_part if "batch" in trap.refused else same_stored

    wrong = [key for key, arrays in found.items() if not same_stored(flow.values[key], arrays)]
    assert all(agree(flow.values[key], found[key]) for key in wrong)
    assert same(output, flow.output)
    assert same(numbers, [list, *flow.numbers])
    assert torch.equal(random, flow.random)
