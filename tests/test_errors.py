from __future__ import annotations

import pickle

import pytest
import typer

from foretell.cli.console import reporting
from foretell.errors import DataError


def test_an_error_names_every_place_and_how_rows_are_counted():
    error = DataError("text", file="a.csv", column="y", series="s", row=3, hint="Convert it")
    assert str(error) == (
        "text (file 'a.csv', column 'y', series 's', row 3 counted from 0). Convert it"
    )
    assert str(pickle.loads(pickle.dumps(error))) == str(error)
    assert str(DataError("no rows")) == "no rows"


@pytest.mark.parametrize(
    ("problem", "said", "trace"),
    [
        (
            "cannot cache function 'walk': no locator available for file 'x'",
            "NUMBA_CACHE_DIR",
            False,
        ),
        ("something else", "please report it", True),
    ],
)
def test_a_missing_place_for_compiled_code_is_told_in_words(problem, said, trace, capsys):
    with pytest.raises(typer.Exit) as left, reporting():
        raise RuntimeError(problem)
    told = capsys.readouterr().err
    assert left.value.exit_code == 3 and said in told and ("Traceback" in told) == trace
