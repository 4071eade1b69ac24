"""Tagged sentences in the CoNLL form: a token a line, an empty line between sentences."""

from __future__ import annotations

from pathlib import Path

import polars as pl

from foretell.data.text.text_set import TextSet
from foretell.errors import DataError


def read_conll(
    *files: str | Path,
    token: int = 0,
    tag: int = -1,
    splits: tuple[str, ...] = (),
    encoding: str = "utf-8",
) -> TextSet:
    """Reads files with columns parted by tabs or blanks, such as CoNLL-2003 or WNUT-17.

    Lines that begin with ``-DOCSTART-`` part documents and are left out. Tags of the form IOB1 are
    read as they are: ``I-kind`` begins a span where none goes on.

    Args:
        *files: one a part.
        token: column of the token.
        tag: column of the tag; negative numbers count from the end.
        splits: names of the parts; the files' names without ending by default.
        encoding: of the files.

    Raises:
        DataError: a file cannot be read, a line has too few columns or another number of them than
            the first, a tag is none; names file and line.
    """
    names = splits or tuple(Path(file).stem for file in files)
    if not files or len(names) != len(files):
        raise DataError(f"{len(files)} files need as many names of parts, not {len(names)}")
    tokens, tags, parts = [], [], []
    for file, name in zip(files, names, strict=True):
        sentences = _sentences(Path(file), token, tag, encoding)
        tokens += [[word for word, _ in sentence] for sentence in sentences]
        tags += [[own for _, own in sentence] for sentence in sentences]
        parts += [name] * len(sentences)
    form = pl.List(pl.String)
    frame = pl.DataFrame(
        [pl.Series("tokens", tokens, form), pl.Series("slots", tags, form),
         pl.Series("split", parts, pl.String)]
    )  # fmt: skip
    return TextSet.from_frame(frame, file=", ".join(map(str, files)))


def _sentences(file: Path, token: int, tag: int, encoding: str) -> list[list[tuple[str, str]]]:
    try:
        lines = file.read_text(encoding).split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"the file cannot be read: {error}", file=str(file)) from error
    found: list[list[tuple[str, str]]] = [[]]
    width = 0
    for number, line in enumerate(lines, start=1):
        if not line.strip() or line.startswith("-DOCSTART-"):
            if found[-1]:
                found.append([])
            continue
        cells = line.rstrip("\r").split("\t") if "\t" in line else line.split()
        width = width or len(cells)
        # A blank tag, or a stray mark at a line's end, must not become a label.
        if len(cells) != width or max(abs(tag), token + 1) > len(cells) or len(cells) < 2:
            raise DataError(
                f"line {number} (counted from 1) has {len(cells)} columns: {line!r}",
                file=str(file),
                hint=f"Every line needs {max(width, 2)} columns, with the token in column {token} "
                f"and the tag in column {tag}",
            )
        word, own = cells[token].strip(), cells[tag].strip()
        prefix, _, kind = own.partition("-")
        if not word or not (own == "O" or (prefix in ("B", "I") and kind)):
            raise DataError(
                f"line {number} (counted from 1) has the token {word!r} and the tag {own!r}",
                file=str(file), hint="Tags are O, B-kind and I-kind",
            )  # fmt: skip
        found[-1].append((word, own))
    found = [sentence for sentence in found if sentence]
    if not found:
        raise DataError("there is no sentence", file=str(file))
    return found
