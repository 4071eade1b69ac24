"""One column of a table as numbers in canonical units; what is odd is counted."""

from __future__ import annotations

import numpy as np
import polars as pl

from foretell.data.clinical.schema import Schema
from foretell.data.clinical.tokens import is_missing, read_token
from foretell.data.panel import DataNote
from foretell.errors import DataError


class Notes:
    """Collects what was found."""

    def __init__(self) -> None:
        self.found: list[DataNote] = []

    def add(self, kind: str, text: str, count: int, series: str | None = None) -> None:
        """Adds a note unless its count is zero; ``{n}`` in the text is the count."""
        if count:
            self.found.append(DataNote(kind, text.format(n=f"{count:,}"), count, series))


def numeric(values: pl.Series, schema: Schema, name: str, notes: Notes) -> pl.Series:
    """One channel as float32 in canonical units; tokens that are no plain number are read."""
    if values.dtype == pl.String:
        numbers = values.str.strip_chars().cast(pl.Float64, strict=False)
        odd = values.is_not_null() & numbers.is_null()
        if odd.any():
            numbers = _read_tokens(values, numbers, odd, schema, name, notes)
    else:
        numbers = _numbers(values, name)
    raw = numbers.to_numpy().astype(np.float32)
    infinite = np.isinf(raw)
    notes.add(
        "not_finite", f"{{n}} infinite values of {name} count as missing", int(infinite.sum())
    )
    raw = np.where(infinite, np.float32(np.nan), raw)
    outside = ~np.isnan(raw) & ~schema[name].is_possible(raw)
    low, high = schema[name].possible
    text = f"{{n}} values of {name} are outside [{low:g}, {high:g}] {schema[name].unit} and kept"
    notes.add("impossible", text, int(outside.sum()))
    return pl.Series(f"channel_{name}", raw)


def stay_numbers(values: pl.Series, name: str, notes: Notes) -> pl.Series:
    """A number that describes stays, such as the age, as float64 with nulls; text is read.

    ``> 89`` stands for 89; words and what is not finite count as unknown. Both are counted.
    """
    if values.dtype == pl.String:
        tokens = values.str.strip_chars()
        numbers = tokens.cast(pl.Float64, strict=False)
        odd = values.is_not_null() & numbers.is_null()
        told = {t: read_token(t) for t in tokens.filter(odd).unique() if not is_missing(t)}
        # What a unit behind a number would make of it is not known here.
        plain = {t: r.value for t, r in told.items() if r.unit is None and not np.isnan(r.value)}
        if plain:
            read = tokens.replace_strict(plain, default=None, return_dtype=pl.Float64)
            numbers = numbers.zip_with(~odd, read)
        bounds = int(tokens.filter(odd).is_in(list(plain)).sum())
        words = int(tokens.filter(odd).is_in([t for t in told if t not in plain]).sum())
        notes.add("comparator", f"{{n}} entries of {name} are bounds such as > 89 and stand for "
                  "themselves", bounds)  # fmt: skip
        notes.add("text", f"{{n}} entries of {name} are words, not numbers, and count as unknown",
                  words)  # fmt: skip
    else:
        numbers = _numbers(values, name)
    infinite = numbers.is_infinite()
    notes.add("not_finite", f"{{n}} infinite entries of {name} count as unknown",
              int(infinite.sum()))  # fmt: skip
    return numbers.fill_nan(None).set(infinite.fill_null(False), None)


def _numbers(values: pl.Series, name: str) -> pl.Series:
    try:
        return values.cast(pl.Float64)
    except pl.exceptions.PolarsError as error:
        raise DataError(
            f"{name} must hold numbers, not {values.dtype}", column=values.name
        ) from error


def _read_tokens(
    values: pl.Series,
    numbers: pl.Series,
    odd: pl.Series,
    schema: Schema,
    name: str,
    notes: Notes,
) -> pl.Series:
    counts = {"comparator": 0, "unit": 0, "text": 0, "unknown_unit": 0}
    readings: dict[str, float] = {}
    tallied = values.filter(odd).value_counts()
    for token, count in zip(tallied[values.name], tallied["count"], strict=True):
        if is_missing(token):
            continue
        value, comparator, unit = read_token(token)
        kind = "text" if np.isnan(value) else None
        if kind is None and unit is not None:
            try:
                value, kind = float(schema.convert(name, value, unit)), "unit"
            except DataError:
                value, kind = np.nan, "unknown_unit"
        if kind is None and comparator is not None:
            kind = "comparator"
        if kind is not None:
            counts[kind] += count
        readings[token] = value
    texts = {
        "comparator": f"{{n}} values of {name} are bounds such as >100 and stand for themselves",
        "unit": f"{{n}} values of {name} were written with their unit and converted",
        "text": f"{{n}} entries of {name} are words, not numbers, and count as missing",
        "unknown_unit": f"{{n}} values of {name} have an unknown unit and count as missing",
    }
    for kind, text in texts.items():
        notes.add(kind, text, counts[kind])
    read = values.filter(odd).replace_strict(readings, default=None, return_dtype=pl.Float64)
    result = numbers.to_numpy().copy()
    result[odd.to_numpy()] = read.to_numpy()
    return pl.Series(values.name, result)
