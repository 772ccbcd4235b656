"""Naming a site: one language for capture, command line, store and pictures.

A site is a point of a network where a value flows: what a module put out, what went into it, or
the gradient at its output. `Site` is one such point; a *selector* is a text (or a module, a class,
a predicate) that picks some of them. Parsing and matching need no torch: a model is anything with
``named_modules``.
"""

import difflib
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain, count
from pathlib import PurePath
from typing import Any, Literal, get_args

from stratascope.errors import SiteNotFoundError

Port = Literal["out", "in", "grad"]
PORTS: tuple[Port, ...] = get_args(Port)
ROOT_NAME = "model"

Selector = Any
"""A site name, a `Site`, a module, a module class, or a predicate ``(name, module) -> bool``."""

_WRAPPERS = {
    "OptimizedModule": "_orig_mod",
    "DataParallel": "module",
    "DistributedDataParallel": "module",
}
"""Classes that hold a network only to run it in another way, and where they hold it."""

_SUFFIX = re.compile(r"(?P<body>.*?)(?:@(?P<call>[^@:]*))?(?::(?P<port>[^@:]*))?", re.DOTALL)
_CLASS_INDEX = re.compile(r"(?P<name>[A-Za-z_]\w*)\[(?P<index>\*|-?\d+)\]")
_GLOB = re.compile(r"[*?\[]")


@dataclass(frozen=True, slots=True)
class Site:
    """One point of a network where a value flows.

    Attributes:
        path: Dotted path of the module, as in ``named_modules``; ``""`` is the model itself.
        port: ``"out"``, ``"in"``, or ``"grad"``, the gradient of the loss at the output.
        call: Which call of a module that runs several times in one forward, from 1; None where it
            runs once.

    >>> site = Site.parse("encoder.relu@2:in")
    >>> site
    Site(path='encoder.relu', port='in', call=2)
    >>> str(site)
    'encoder.relu@2:in'
    """

    path: str
    port: Port = "out"
    call: int | None = None

    def __str__(self) -> str:
        call = "" if self.call is None else f"@{self.call}"
        port = "" if self.port == "out" else f":{self.port}"
        return f"{self.path or ROOT_NAME}{call}{port}"

    @classmethod
    def parse(cls, text: str) -> "Site":
        """Read a site from its text.

        Raises:
            SiteNotFoundError: The text names a port or a call that cannot be.
        """
        match = _SUFFIX.fullmatch(text)
        assert match is not None
        body, call, port = match["body"], match["call"], match["port"]
        return cls(body, _parse_port(text, port), _parse_call(text, call))


def _parse_port(text: str, port: str | None) -> Port:
    if port is None:
        return "out"
    if port in PORTS:
        return port
    near = difflib.get_close_matches(port, PORTS, n=1, cutoff=0.3)
    hint = f" Did you mean '{text[: -len(port)]}{near[0]}'?" if near and port else ""
    raise SiteNotFoundError(
        f"the port of {text!r} must be 'out', 'in' or 'grad', got {port!r}.{hint}"
    )


def _parse_call(text: str, call: str | None) -> int | None:
    if call is None:
        return None
    if re.fullmatch(r"-?[1-9]\d*", call):
        return int(call)
    raise SiteNotFoundError(
        f"the call of {text!r} must be a whole number from 1 (or -1 for the last), got {call!r}"
    )


@dataclass(frozen=True, slots=True)
class Match:
    """A module or an operation that a selector picked, and what is wanted of it.

    Attributes:
        selector: The selector as the user gave it.
        path: The module's first name in the model, or the operation's name.
        port: Which of its values.
        call: Which of its calls; None means all.
        ordinal: ``("Conv1d", 5)`` where the module counts only if it is the fifth `Conv1d` to run.
        owner: Path of the module in whose forward an operation runs; None for a module.
    """

    selector: str
    path: str
    port: Port = "out"
    call: int | None = None
    ordinal: tuple[str, int] | None = None
    owner: str | None = None

    @property
    def text(self) -> str:
        """The match as a site's text; what is counted while it runs keeps its selector."""
        return str(Site(self.path, self.port, self.call)) if self.ordinal is None else self.selector


class ModuleTable:
    """The modules of a model by name, every name of a shared module included.

    Attributes:
        modules: First name to module, in the model's order; ``""`` is the model. What torch.compile
            or DistributedDataParallel wraps stands under the name of the wrapper, and the wrapper
            nowhere, so that names are the same with it and without.
        aliases: Every further name of a shared module to its first name.
        wrapped: Every name that goes through a wrapper, as in ``named_modules``, to the first name.
        is_operation: Tells whether a name can be that of an operation, such as ``add_1``; by
            default none can.
    """

    __slots__ = ("aliases", "is_operation", "modules", "wrapped")

    def __init__(self, model: Any, is_operation: Callable[[str], bool] | None = None) -> None:
        if isinstance(model, type) or not hasattr(model, "named_modules"):
            raise TypeError(f"model must be a torch.nn.Module, got {_describe(model)}")
        self.is_operation = is_operation
        self.modules: dict[str, Any] = {}
        self.aliases: dict[str, str] = {}
        first: dict[int, str] = {}
        paths: dict[str, str] = {"": ""}
        full: str
        for full, module in model.named_modules(remove_duplicate=False):
            parent, _, last = full.rpartition(".")
            path = paths.setdefault(full, _join(paths.get(parent, parent), last))
            place = _find_wrapped(module)
            if place is not None:
                paths[_join(full, place)] = path
                continue
            known = first.setdefault(id(module), path)
            if known == path:
                self.modules[path] = module
            else:
                self.aliases[path] = known
        self.wrapped = {
            full: self.aliases.get(path, path)
            for full, path in paths.items()
            if full not in self.modules and full not in self.aliases
        }

    def resolve(self, path: str) -> str | None:
        """Find the first name behind a name, or None."""
        if path in self.modules:
            return path
        first = self.aliases.get(path, self.wrapped.get(path))
        return "" if first is None and path == ROOT_NAME else first

    def names(self) -> Iterator[str]:
        """Iterate over all names but the model's own empty one."""
        yield from (path for path in self.modules if path)
        yield from self.aliases


def unwrap(module: Any) -> Any:
    """Give the network that DistributedDataParallel, DataParallel or torch.compile wraps.

    >>> import torch
    >>> network = torch.nn.Linear(3, 2)
    >>> unwrap(torch.nn.DataParallel(network)) is unwrap(network) is network
    True
    """
    while (place := _find_wrapped(module)) is not None:
        module = getattr(module, place)
    return module


def _find_wrapped(module: Any) -> str | None:
    """Tell where a wrapper holds its network; None for a module that is none."""
    place = _find_place(type(module))
    held = place is not None and hasattr(getattr(module, place, None), "named_modules")
    return place if held else None


@lru_cache(maxsize=1024)
def _find_place(kind: type) -> str | None:
    return next(
        (_WRAPPERS[base.__name__] for base in kind.__mro__ if base.__name__ in _WRAPPERS), None
    )


def _join(parent: str, name: str) -> str:
    return f"{parent}.{name}" if parent else name


def match_sites(table: ModuleTable, selectors: Selector | Iterable[Selector]) -> tuple[Match, ...]:
    """Find what the selectors pick, in the order of the model's modules.

    Args:
        table: The model's modules.
        selectors: One selector or several.

    Raises:
        SiteNotFoundError: A selector picks nothing; the message lists near names.
        TypeError: Something is no selector.
    """
    found: dict[Match, None] = {}
    names: dict[str, Selector] = {}
    for selector in _as_sequence(selectors):
        found.update(dict.fromkeys(_match_one(table, selector, names)))
    order = {path: index for index, path in enumerate(table.modules)}
    return tuple(sorted(found, key=lambda m: order[m.path if m.owner is None else m.owner]))


def _as_sequence(selectors: Selector | Iterable[Selector]) -> Sequence[Selector]:
    # A Sequential is iterable, and means itself.
    single = isinstance(selectors, str | Site | type) or hasattr(selectors, "named_modules")
    if single or callable(selectors) or not isinstance(selectors, Iterable):
        return (selectors,)
    several = tuple(selectors)
    if not several:
        raise SiteNotFoundError("sites must name at least one site, got none: '**' means all")
    return several


def _match_one(
    table: ModuleTable, selector: Selector, names: dict[str, Selector]
) -> tuple[Match, ...]:
    if isinstance(selector, str):
        return _match_text(table, selector)
    if isinstance(selector, Site):
        return _match_site(table, selector)
    if hasattr(selector, "named_modules") and not isinstance(selector, type):
        wanted = unwrap(selector)
        paths = [path for path, module in table.modules.items() if module is wanted]
        name, problem = _describe(selector), "is not part of the model"
    elif isinstance(selector, type):
        paths = [path for path, module in table.modules.items() if isinstance(module, selector)]
        name, problem = _name(selector, names), "is the class of no module of the model"
    elif callable(selector):
        paths = [path for path, module in table.modules.items() if selector(path, module)]
        name = _name(selector, names)
        problem = "is a predicate that holds for no module of the model"
    else:
        raise TypeError(
            "sites must be names, Sites, modules, module classes or predicates "
            f"(name, module) -> bool, got {_describe(selector)}"
        )
    if not paths:
        raise SiteNotFoundError(f"{name} {problem}. {_how_to_list(table)}")
    # A module is told by its name, as its class would hide which one was never reached.
    named = isinstance(selector, type) or not hasattr(selector, "named_modules")
    return tuple(Match(name if named else path or ROOT_NAME, path) for path in paths)


def _name(selector: Any, names: dict[str, Selector]) -> str:
    """Name a class or a predicate, and no two alike: by its name one is told that never ran."""
    name = getattr(selector, "__name__", _describe(selector))
    code = getattr(selector, "__code__", None)
    if name == "<lambda>" and code is not None:
        name += f" at {PurePath(code.co_filename).name}:{code.co_firstlineno}"
    choices = chain([name], (f"{name} ({number})" for number in count(2)))
    return next(choice for choice in choices if names.setdefault(choice, selector) is selector)


def _match_site(table: ModuleTable, site: Site) -> tuple[Match, ...]:
    # Its text would not do: the root's is "model", and so may be a child's name.
    path = site.path if site.path in table.modules else table.aliases.get(site.path)
    if path is None:
        return _match_text(table, str(site))
    return (Match(str(site), path, site.port, site.call),)


def _match_text(table: ModuleTable, text: str) -> tuple[Match, ...]:
    exact = table.resolve(text)
    if exact is not None:
        return (Match(text, exact),)
    wanted = Site.parse(text)
    paths, ordinal = _match_body(table, text, wanted.path)
    if not paths and (operations := _match_operations(table, text, wanted)):
        return operations
    if not paths:
        raise SiteNotFoundError(
            f"no site of the model matches {text!r}.{suggest(wanted.path, _candidates(table))} "
            f"{_how_to_list(table)}"
        )
    return tuple(Match(text, path, wanted.port, wanted.call, ordinal) for path in paths)


def _match_operations(table: ModuleTable, text: str, wanted: Site) -> tuple[Match, ...]:
    """Read ``layer1.*.add_1`` as that operation in the forward of these modules.

    Only the forward can tell whether it runs.
    """
    parent, _, name = wanted.path.rpartition(".")
    if table.is_operation is None or not table.is_operation(name):
        return ()
    owners = [""] if not parent else _match_body(table, text, parent)[0]
    paths = {owner: _join(owner, name) for owner in owners}
    return tuple(
        Match(text, path, wanted.port, wanted.call, owner=owner) for owner, path in paths.items()
    )


def _match_body(
    table: ModuleTable, text: str, body: str
) -> tuple[list[str], tuple[str, int] | None]:
    exact = table.resolve(body)
    if exact is not None:
        return [exact], None
    indexed = parse_class_index(body)
    if indexed is not None:
        name, index = indexed
        paths = [path for path, module in table.modules.items() if name in class_names(module)]
        # With no such class the brackets are a glob's: layer[12] means layer1 and layer2.
        if paths:
            return paths, _check_ordinal(text, name, index, len(paths))
    if _GLOB.search(body):
        pattern = _compile_glob(body)
        paths = [path for path in table.names() if pattern.fullmatch(path)]
        # Only then, as *.conv must not be the conv of every network in a wrapper.
        paths = paths or [path for path in table.wrapped if pattern.fullmatch(path)]
        first = dict.fromkeys(known for path in paths if (known := table.resolve(path)) is not None)
        return list(first), None
    return [], None


def _check_ordinal(text: str, name: str, index: int | None, count: int) -> tuple[str, int] | None:
    if index is None:
        return None
    if 1 <= index <= count:
        return name, index
    raise SiteNotFoundError(
        f"the index of {text!r} must be 1 to {count}, or *: the model has {count} {name} modules, "
        "counted from 1 in the order in which they run"
    )


def parse_class_index(body: str) -> tuple[str, int | None] | None:
    """Read ``Conv1d[5]`` as ``("Conv1d", 5)``, ``Conv1d[*]`` as ``("Conv1d", None)``, else None.

    >>> parse_class_index("Conv1d[5]"), parse_class_index("Conv1d[*]"), parse_class_index("conv")
    (('Conv1d', 5), ('Conv1d', None), None)
    """
    match = _CLASS_INDEX.fullmatch(body)
    if match is None:
        return None
    return match["name"], None if match["index"] == "*" else int(match["index"])


def class_names(module: Any) -> list[str]:
    """List the names by which ``Name[k]`` knows a module: its class and the bases below Module."""
    return list(_list_names(type(module)))


@lru_cache(maxsize=1024)
def _list_names(kind: type) -> tuple[str, ...]:
    names = tuple(base.__name__ for base in _own_classes(kind))
    # The last one is torch's; a network may call a class of its own by that name too.
    ends = [index for index, name in enumerate(names) if name == "Module"]
    return names[: ends[-1]] if ends else names


def class_name(module: Any) -> str:
    """Name a module's class, as it was before ``fully_shard`` put another in its place.

    >>> import torch
    >>> class_name(torch.nn.Tanh())
    'Tanh'
    """
    return _own_classes(type(module))[0].__name__


def _own_classes(kind: type) -> tuple[type, ...]:
    classes = kind.__mro__
    # FSDPConv1d, FSDPModule, Conv1d, …
    ends = [index for index, kind in enumerate(classes) if kind.__name__ == "FSDPModule"]
    return classes[ends[-1] + 1 :] if ends else classes


@lru_cache(maxsize=256)
def _compile_glob(glob: str) -> re.Pattern[str]:
    parts = glob.split(".")
    pattern = ""
    for index, part in enumerate(parts):
        last = index == len(parts) - 1
        if part == "**":
            pattern += r".+" if last else r"(?:[^.]+\.)*"
        else:
            pattern += _translate_level(part) + ("" if last else r"\.")
    return re.compile(pattern, re.DOTALL)


def _translate_level(part: str) -> str:
    """Translate one level of a glob; fnmatch's own translation would let ``*`` cross dots."""
    pattern, position = "", 0
    while position < len(part):
        character = part[position]
        position += 1
        if character == "*":
            pattern += "[^.]*"
        elif character == "?":
            pattern += "[^.]"
        elif character == "[" and (end := part.find("]", position + 1)) > 0:
            pattern += _translate_choices(part[position:end])
            position = end + 1
        else:
            pattern += re.escape(character)
    return pattern


def _translate_choices(choices: str) -> str:
    """Translate what stands between brackets; there only ``!`` in front and ``a-z`` are special."""
    negated = choices[0] == "!" and len(choices) > 1
    pattern, position = "", int(negated)
    while position < len(choices):
        first = last = choices[position]
        if choices[position + 1 : position + 2] == "-" and position + 2 < len(choices):
            last = choices[position + 2]
            position += 2
        position += 1
        if first <= last:
            pattern += f"{re.escape(first)}-{re.escape(last)}"
    if not pattern:
        return "[^.]" if negated else r"(?!)"
    return f"[^.{pattern}]" if negated else f"[{pattern}]"


def match_names(pattern: str, names: Iterable[str]) -> list[str]:
    """List the names that a glob matches.

    >>> match_names("enc.*", ["enc.0", "enc.0.conv", "dec.0"])
    ['enc.0']
    """
    compiled = _compile_glob(pattern)
    return [name for name in names if compiled.fullmatch(name)]


def suggest(name: str, candidates: Iterable[str]) -> str:
    """Say which candidates are near a name: `` Did you mean 'enc.3'?``, or nothing.

    >>> suggest("enk.3", ["enc.3", "enc.30", "dec.1"])
    " Did you mean 'enc.3' or 'enc.30'?"
    """
    known = list(dict.fromkeys(candidates))
    folded = {candidate.casefold(): candidate for candidate in reversed(known)}
    near = [candidate for candidate in known if candidate.rpartition(".")[2] == name][:3]
    near += [folded[match] for match in difflib.get_close_matches(name.casefold(), folded, n=3)]
    near = [f"'{candidate}'" for candidate in dict.fromkeys(near)][:3]
    if not near:
        return ""
    listed = near[0] if len(near) == 1 else f"{', '.join(near[:-1])} or {near[-1]}"
    return f" Did you mean {listed}?"


def _candidates(table: ModuleTable) -> list[str]:
    classes: dict[str, None] = {}
    for path, module in table.modules.items():
        if path:
            classes[f"{class_name(module)}[*]"] = None
            classes[f"{class_name(module)}[1]"] = None
    # A bare class name is the likeliest slip of all.
    return [*table.names(), *table.wrapped, *classes]


def _how_to_list(table: ModuleTable) -> str:
    return f"`stratascope.select(model, '**')` lists all {len(table.modules) - 1}."


def _describe(value: Any) -> str:
    kind = type(value)
    name = kind.__name__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__name__}"
    return f"an instance of {name}"
