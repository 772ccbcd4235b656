import inspect

import pytest

from stratascope import errors

ERRORS = [
    value
    for _, value in inspect.getmembers(errors, inspect.isclass)
    if issubclass(value, errors.StratascopeError)
]


@pytest.mark.parametrize(
    ("error", "builtin"),
    [
        (errors.SiteNotFoundError, KeyError),
        (errors.CaptureError, RuntimeError),
        (errors.StoreError, ValueError),
        (errors.DataError, ValueError),
        (errors.UsageError, ValueError),
        (errors.MissingExtraError, ImportError),
    ],
)
def test_an_error_is_caught_by_the_built_in_that_a_caller_expects(error, builtin):
    with pytest.raises(builtin, match="sites must be"):
        raise error("sites must be names, got 3")


@pytest.mark.parametrize("error", ERRORS)
def test_an_error_reads_as_the_sentence_it_was_given(error):
    assert str(error("no site matches 'enc.3'")) == "no site matches 'enc.3'"


@pytest.mark.parametrize("error", ERRORS)
def test_every_error_stands_in_the_tree_with_its_built_in(error):
    lines = [line for line in errors.__doc__.splitlines() if f" {error.__name__} " in f"{line} "]
    builtin = error.__bases__[-1] if len(error.__bases__) > 1 else None

    if error is errors.StratascopeError:
        assert error.__name__ in errors.__doc__
    else:
        assert len(lines) == 1
        assert f"(also {builtin.__name__})" in lines[0]


@pytest.mark.parametrize("error", ERRORS)
def test_one_clause_catches_every_error_of_the_package(error):
    with pytest.raises(errors.StratascopeError, match="anything"):
        raise error("anything")
