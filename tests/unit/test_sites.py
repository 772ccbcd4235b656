import pickle
import re

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from torch import nn

from naming import name_case
from stratascope.errors import SiteNotFoundError
from stratascope.sites import Match, ModuleTable, Site, class_names, match_sites, suggest


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv1d(1, 1, 1)
        self.relu = nn.ReLU()


class WideBlock(Block):
    pass


class Network(nn.Module):
    def __init__(self):
        super().__init__()
        self.enc = nn.ModuleList([Block(), WideBlock(), Block()])
        self.layer1 = nn.Sequential(nn.Conv1d(1, 1, 1), nn.Sequential(nn.ReLU(), nn.Tanh()))
        self.layer2 = nn.Conv2d(1, 1, 1)
        self.head = nn.Linear(2, 2)
        self.tied = self.head


MODEL = Network()
TABLE = ModuleTable(MODEL)


def names(selectors, table=TABLE):
    return [match.path for match in match_sites(table, selectors)]


def table_of(*paths):
    """Make a table of a network with modules of these dotted names."""
    root = nn.Module()
    for path in paths:
        module = root
        for part in path.split("."):
            if part not in module._modules:
                module.add_module(part, nn.Module())
            module = module._modules[part]
    return ModuleTable(root)


# A site and its text


@pytest.mark.parametrize(
    ("text", "site"),
    [
        ("enc.3", Site("enc.3")),
        ("enc.3:out", Site("enc.3")),
        ("enc.3:in", Site("enc.3", "in")),
        ("enc.3:grad", Site("enc.3", "grad")),
        ("relu@2", Site("relu", "out", 2)),
        ("relu@-1:in", Site("relu", "in", -1)),
        (":in", Site("", "in")),
        ("@2", Site("", "out", 2)),
        ("", Site("")),
        ("model", Site("model")),
    ],
)
def test_a_text_reads_as_a_site(text, site):
    assert Site.parse(text) == site


@pytest.mark.parametrize(
    ("site", "text"),
    [
        (Site("enc.3"), "enc.3"),
        (Site("enc.3", "in", 2), "enc.3@2:in"),
        (Site("relu", call=-1), "relu@-1"),
        (Site(""), "model"),
        (Site("", "grad"), "model:grad"),
    ],
)
def test_a_site_prints_as_its_text(site, text):
    assert str(site) == text


paths = st.lists(
    st.text(st.characters(exclude_characters=".@:"), min_size=1, max_size=4), max_size=4
).map(".".join)
sites = st.builds(
    Site,
    paths,
    st.sampled_from(["out", "in", "grad"]),
    st.none() | st.integers(-20, 20).filter(bool),
)


@given(sites)
@example(Site(""))
@example(Site("a\nb", "in", 3))
def test_the_text_of_a_site_reads_as_that_text_again(site):
    again = Site.parse(str(site))

    assert str(again) == str(site)
    assert again == site or not site.path


@given(sites)
def test_a_site_is_a_key_and_can_be_pickled(site):
    again = pickle.loads(pickle.dumps(site))

    assert {site: 1}[again] == 1
    assert again is not site


def test_a_site_cannot_be_changed():
    with pytest.raises(AttributeError, match="cannot assign to field 'path'"):
        Site("enc").path = "dec"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("enc:inn", "the port of 'enc:inn' must be 'out', 'in' or 'grad', got 'inn'. "
                    "Did you mean 'enc:in'?"),
        ("enc:gradient", "got 'gradient'. Did you mean 'enc:grad'?"),
        ("enc@2:outt", "got 'outt'. Did you mean 'enc@2:out'?"),
        ("enc:xyz", "got 'xyz'."),
        ("enc:", "must be 'out', 'in' or 'grad', got ''."),
        ("enc@0", "must be a whole number from 1 (or -1 for the last), got '0'"),
        ("enc@two:in", "the call of 'enc@two:in' must be a whole number"),
        ("enc@", "must be a whole number from 1 (or -1 for the last), got ''"),
        ("enc@1.5", "got '1.5'"),
    ],
)  # fmt: skip
def test_a_port_or_a_call_that_cannot_be_is_refused(text, message):
    with pytest.raises(SiteNotFoundError, match=re.escape(message)):
        Site.parse(text)
    with pytest.raises(SiteNotFoundError, match=re.escape(message)):
        match_sites(TABLE, text)


# Names, globs and classes


@pytest.mark.parametrize(
    ("selector", "expected"),
    [
        ("enc.1.conv", ["enc.1.conv"]),
        ("enc.*", ["enc.0", "enc.1", "enc.2"]),
        ("*", ["enc", "layer1", "layer2", "head"]),
        ("enc.*.conv", ["enc.0.conv", "enc.1.conv", "enc.2.conv"]),
        ("**.conv", ["enc.0.conv", "enc.1.conv", "enc.2.conv"]),
        ("**.0", ["enc.0", "layer1.0", "layer1.1.0"]),
        ("layer1.**", ["layer1.0", "layer1.1", "layer1.1.0", "layer1.1.1"]),
        ("enc.**.relu", ["enc.0.relu", "enc.1.relu", "enc.2.relu"]),
        ("layer[12]", ["layer1", "layer2"]),
        ("layer[!1]", ["layer2"]),
        ("layer[0-1].*", ["layer1.0", "layer1.1"]),
        ("layer?", ["layer1", "layer2"]),
        ("l*r?.?", ["layer1.0", "layer1.1"]),
        ("enc.[02].re*", ["enc.0.relu", "enc.2.relu"]),
        ("Conv1d[*]", ["enc.0.conv", "enc.1.conv", "enc.2.conv", "layer1.0"]),
        ("Block[*]", ["enc.0", "enc.1", "enc.2"]),
        ("WideBlock[*]", ["enc.1"]),
        ("_ConvNd[*]", ["enc.0.conv", "enc.1.conv", "enc.2.conv", "layer1.0", "layer2"]),
        ("Network[*]", [""]),
        (nn.Conv1d, ["enc.0.conv", "enc.1.conv", "enc.2.conv", "layer1.0"]),
        (Block, ["enc.0", "enc.1", "enc.2"]),
        (MODEL.enc[1], ["enc.1"]),
        (MODEL.layer1, ["layer1"]),
        (MODEL, [""]),
        (lambda name, module: name.endswith("relu"), ["enc.0.relu", "enc.1.relu", "enc.2.relu"]),
        (lambda name, module: isinstance(module, nn.Tanh), ["layer1.1.1"]),
        (Site("enc.1.conv"), ["enc.1.conv"]),
        (Site("enc.*"), ["enc.0", "enc.1", "enc.2"]),
        ("", [""]),
        ("model", [""]),
        (Site(""), [""]),
        (Site("model"), [""]),
        ("tied", ["head"]),
        (Site("tied"), ["head"]),
        ("t*d", ["head"]),
        (MODEL.tied, ["head"]),
        (["head", "enc.0", nn.Tanh, "enc.0"], ["enc.0", "layer1.1.1", "head"]),
        ((name for name in ("layer2", "enc")), ["enc", "layer2"]),
    ],
    ids=name_case,
)  # fmt: skip
def test_a_selector_picks_modules_in_the_order_of_the_model(selector, expected):
    assert list(dict.fromkeys(names(selector))) == expected


def test_all_but_the_root_is_two_stars():
    assert names("**") == [path for path in TABLE.modules if path]


@pytest.mark.parametrize("body", ["enc.0", "enc.*", "Block[*]", "**.relu", "tied", "model", ""])
@pytest.mark.parametrize(
    ("suffix", "port", "call"),
    [("", "out", None), (":in", "in", None), ("@2", "out", 2), ("@-1:grad", "grad", -1)],
)
def test_port_and_call_go_with_every_form_of_a_name(body, suffix, port, call):
    matches = match_sites(TABLE, body + suffix)

    assert {(match.port, match.call) for match in matches} == {(port, call)}
    assert [match.path for match in matches] == names(body)
    assert {match.selector for match in matches} == {body + suffix}


def test_a_site_keeps_its_port_and_its_call_as_a_selector():
    (match,) = match_sites(TABLE, Site("tied", "in", 2))

    assert match == Match("tied@2:in", "head", "in", 2)
    assert match.text == "head@2:in"


def test_an_index_of_a_class_waits_for_the_order_in_which_modules_run():
    matches = match_sites(TABLE, "Conv1d[2]:in")

    assert {match.ordinal for match in matches} == {("Conv1d", 2)}
    assert [match.path for match in matches] == names("Conv1d[*]")
    assert {match.text for match in matches} == {"Conv1d[2]:in"}


def test_a_match_says_what_it_was_picked_by():
    def picks_tanh(name, module):
        return isinstance(module, nn.Tanh)

    matches = match_sites(TABLE, [MODEL, MODEL.enc[1], nn.Conv2d, picks_tanh, "h*d"])

    assert [match.selector for match in matches] == [
        "model", "enc.1", "picks_tanh", "Conv2d", "h*d",
    ]  # fmt: skip


def test_predicates_and_classes_of_one_name_are_told_apart():
    class Tanh(nn.Module):
        """Another one."""

    first, second, third = (
        lambda name, module: name == "enc.0",
        lambda name, module: name in ("enc.0", "enc.1"), lambda name, module: name == "enc.1",
    )  # fmt: skip
    line = first.__code__.co_firstlineno
    table = table_of("a", "b")
    table.modules["a"], table.modules["b"] = nn.Tanh(), Tanh()

    matches = match_sites(TABLE, [first, second, third, first])
    assert [(match.selector, match.path) for match in matches] == [
        (f"<lambda> at test_sites.py:{line}", "enc.0"),
        (f"<lambda> at test_sites.py:{line + 1}", "enc.0"),
        (f"<lambda> at test_sites.py:{line + 1}", "enc.1"),
        (f"<lambda> at test_sites.py:{line + 1} (2)", "enc.1"),
    ]
    assert [match.selector for match in match_sites(table, [nn.Tanh, Tanh])] == ["Tanh", "Tanh (2)"]


def test_a_lambda_that_picks_nothing_is_named_by_its_place():
    nothing = lambda name, module: False  # noqa: E731
    place = f"test_sites.py:{nothing.__code__.co_firstlineno}"
    with pytest.raises(
        SiteNotFoundError, match=rf"<lambda> at {re.escape(place)} is a predicate that holds for no"
    ):
        match_sites(TABLE, nothing)


def test_a_module_of_that_very_name_goes_before_every_other_reading():
    table = table_of("model", "Linear[1]", "x*y", "xay", "a:in", "b@2")

    assert names("model", table) == ["model"]
    assert names(Site("model"), table) == ["model"]
    assert names("", table) == [""]
    assert names(Site(""), table) == [""]
    assert names(["Linear[1]", "a:in", "b@2", "x*y"], table) == ["Linear[1]", "x*y", "a:in", "b@2"]
    assert names("a:in:in", table) == ["a:in"]
    assert names(Site("a:in"), table) == ["a:in"]


def test_classes_are_known_by_their_bases_below_module():
    class Module(nn.Linear):
        pass

    assert class_names(MODEL.enc[1]) == ["WideBlock", "Block"]
    assert class_names(Module(1, 1)) == ["Module", "Linear"]
    assert class_names(nn.Module()) == []


# What matches nothing


def picks_nothing(name, module):
    return False


@pytest.mark.parametrize(
    ("selector", "message"),
    [
        ("enk.1", "no site of the model matches 'enk.1'. Did you mean 'enc.1'"),
        ("conv", "no site of the model matches 'conv'. Did you mean 'enc.0.conv', 'enc.1.conv' or "
                 "'enc.2.conv'?"),
        ("enc.5.*", "no site of the model matches 'enc.5.*'"),
        ("Conv1d", "Did you mean 'Conv1d[1]', 'Conv1d[*]'"),
        ("conv1d[2]", "Did you mean 'Conv1d[1]'"),
        ("HEAD", "Did you mean 'head'?"),
        ("head:in:in", "no site of the model matches 'head:in:in'"),
        ("zzz", "matches 'zzz'. `stratascope.select(model, '**')` lists all 17."),
        ("Conv1d[5]", "the index of 'Conv1d[5]' must be 1 to 4, or *: the model has 4 Conv1d"),
        ("Conv1d[0]", "the index of 'Conv1d[0]' must be 1 to 4"),
        ("Conv1d[-1]:in", "the index of 'Conv1d[-1]:in' must be 1 to 4"),
        (nn.GRU, "GRU is the class of no module of the model."),
        (nn.Linear(1, 1), "an instance of torch.nn.modules.linear.Linear is not part of the model"),
        (picks_nothing, "picks_nothing is a predicate that holds for no module of the model."),
        (Site("enk.1", "in"), "no site of the model matches 'enk.1:in'. Did you mean 'enc.1'"),
        (["enc.1", "nope"], "no site of the model matches 'nope'"),
        ([], "sites must name at least one site, got none: '**' means all"),
    ],
    ids=name_case,
)  # fmt: skip
def test_what_matches_nothing_is_an_error_with_near_names(selector, message):
    with pytest.raises(SiteNotFoundError, match=re.escape(message)):
        match_sites(TABLE, selector)


@pytest.mark.parametrize(
    ("selector", "got"),
    [(3, "int"), (None, "NoneType"), (["enc", 3.5], "float"), ([["enc"]], "list"), (b"enc", "int")],
)
def test_what_is_no_selector_is_refused(selector, got):
    with pytest.raises(TypeError, match=f"sites must be names, Sites, .* got an instance of {got}"):
        match_sites(TABLE, selector)


@pytest.mark.parametrize(
    ("model", "got"), [("resnet", "str"), (None, "NoneType"), (nn.Linear, "type"), (len, "builtin")]
)
def test_a_model_is_a_module(model, got):
    with pytest.raises(TypeError, match=f"must be a torch.nn.Module, got an instance .*{got}"):
        ModuleTable(model)


@pytest.mark.parametrize(
    ("glob", "expected"),
    [
        ("[z-a]", []),
        ("[!z-a]", ["a", "&", "[", "]", "\\", "^", "-", "!"]),
        ("[!]", ["!"]),
        ("[a&&b]", ["a", "&"]),
        ("[[a]", ["a", "["]),
        ("[]]", ["]"]),
        ("[^a]", ["a", "^"]),
        ("[\\]", ["\\"]),
        ("[a-]", ["a", "-"]),
        ("[--a]", ["a", "[", "]", "\\", "^", "-"]),
        ("[", ["["]),
        ("[a", []),
    ],
)
def test_brackets_mean_what_stands_in_them_and_never_break(glob, expected):
    table = table_of("a", "&", "[", "]", "\\", "^", "-", "!")
    if expected:
        assert names(glob, table) == expected
    else:
        with pytest.raises(SiteNotFoundError, match="no site of the model matches"):
            names(glob, table)


# Globs against a matcher that is slow and obviously right


def level_matches(glob, name):
    if not glob:
        return not name
    if glob[0] == "*":
        return any(level_matches(glob[1:], name[start:]) for start in range(len(name) + 1))
    if glob[0] == "[" and "]" in glob[2:]:
        end = glob.index("]", 2)
        return bool(name) and in_choices(glob[1:end], name[0]) and level_matches(
            glob[end + 1 :], name[1:]
        )  # fmt: skip
    return bool(name) and glob[0] in ("?", name[0]) and level_matches(glob[1:], name[1:])


def in_choices(choices, character):
    if choices[0] == "!" and len(choices) > 1:
        return not in_ranges(choices[1:], character)
    return in_ranges(choices, character)


def in_ranges(choices, character):
    if len(choices) >= 3 and choices[1] == "-":
        return choices[0] <= character <= choices[2] or in_ranges(choices[3:], character)
    return bool(choices) and (choices[0] == character or in_ranges(choices[1:], character))


def path_matches(globs, parts):
    if not globs:
        return not parts
    if globs == ["**"]:
        return bool(parts)
    if globs[0] == "**":
        return any(path_matches(globs[1:], parts[start:]) for start in range(len(parts) + 1))
    return bool(parts) and level_matches(globs[0], parts[0]) and path_matches(globs[1:], parts[1:])


letters = st.text("ab1", min_size=1, max_size=3)
levels = st.lists(
    st.sampled_from(["a", "b", "1", "*", "?", "[ab]", "[!a]", "[a-b1]", "[!1-a]", "[b"]),
    min_size=1,
    max_size=3,
).map("".join)


@given(
    st.lists(st.lists(letters, min_size=1, max_size=4).map(".".join), min_size=1, max_size=6),
    st.lists(st.just("**") | levels, min_size=1, max_size=4).map(".".join),
)
@example(["a", "a.b", "b.a.b"], "**.b")
@example(["a", "a.b", "a.b.b"], "a.**")
@example(["a", "a.b", "a.1.b"], "a.**.b")
def test_a_glob_matches_what_its_definition_says(paths, glob):
    table = table_of(*paths)
    expected = [
        path for path in table.modules
        if path and (path == glob or path_matches(glob.split("."), path.split(".")))
    ]  # fmt: skip
    if expected:
        assert names(glob, table) == expected
    else:
        with pytest.raises(SiteNotFoundError, match="no site of the model matches"):
            names(glob, table)


def test_near_names_are_at_most_three_and_keep_their_spelling():
    listed = suggest("Enc.1", ["enc.1", "Enc.2", "enc.11", "enc.12", "other"])

    assert listed.startswith(" Did you mean 'enc.1'")
    assert listed.count("'") == 6
    assert suggest("zzz", ["enc.1"]) == ""
