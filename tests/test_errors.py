from __future__ import annotations

import pickle

from foretell.errors import DataError


def test_an_error_names_every_place_and_how_rows_are_counted():
    error = DataError("text", file="a.csv", column="y", series="s", row=3, hint="Convert it")
    assert str(error) == (
        "text (file 'a.csv', column 'y', series 's', row 3 counted from 0). Convert it"
    )
    assert str(pickle.loads(pickle.dumps(error))) == str(error)
    assert str(DataError("no rows")) == "no rows"
