"""20 Newsgroups: posts of 1993 with their groups and authors."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import polars as pl

from foretell.data.text import TextSet
from foretell.data.text.files import read_table
from foretell.errors import ParameterError

_WORD = r"\w\w+"
_QUOTED = r"(?m)^[ \t]*(?:[>|:}][^\n]*|In article\b[^\n]*|[^\n]*\b(?:writes|wrote|says):?[ \t]*)$"
_SIGNATURE = r"(?s)\n--[ \t]*\n.*$"
_ADDRESS = r"([\w.+%=!/'*-]+@[\w.-]+\w)"

Headers = Literal["subject", "all", "none"]


def newsgroups20(
    folder: Path,
    *,
    headers: Headers = "subject",
    quotes: bool = False,
    signatures: bool = True,
) -> TextSet:
    """11,314 train and 7,532 test posts in 20 groups, split by date.

    Groups are the labels (``intent``). Further columns: ``author``, the address of the header
    ``From`` in lower case, whose devices are those of a natural federation; ``doc_id``, by which
    posts of a group are in about the order of their time; ``text``, what is read of the post, of
    which the tokens are the words of two letters and more in lower case.

    These are posts of real people: keep them where they are.

    Args:
        folder: where it lies.
        headers: what is read of the header: the subject, all of it (sender and organisation tell
            the group away, and are no part of an honest classification) or nothing.
        quotes: whether lines of others that the post quotes are read, and who wrote them.
        signatures: whether what follows a line ``--`` is read.

    Raises:
        ParameterError: another choice of headers.
        DataError: a file is not as expected.
    """
    if headers not in ("subject", "all", "none"):
        raise ParameterError(f"headers must be 'subject', 'all' or 'none', not {headers!r}")
    parts = []
    for split in ("train", "test"):
        table = read_table(folder / f"bydate_{split}.parquet", ("group", "doc_id", "text"))
        parts.append(
            table.select(
                pl.col("group").cast(pl.String).alias("intent"),
                pl.lit(split).alias("split"),
                "doc_id",
                pl.col("text").str.replace_all("\r\n", "\n", literal=True),
            )
        )
    return TextSet.from_frame(_read(pl.concat(parts), headers, quotes, signatures))


def _read(posts: pl.DataFrame, headers: Headers, quotes: bool, signatures: bool) -> pl.DataFrame:
    """Columns ``tokens``, ``text`` and ``author`` in place of the raw text."""
    cut = posts["text"].str.splitn("\n\n", 2)
    head = cut.struct.field("field_0")
    body = cut.struct.field("field_1").fill_null("")
    sender = head.str.extract(r"(?m)^From:[ \t]*(.*)$").fill_null("unknown").str.to_lowercase()
    address = sender.str.extract(_ADDRESS)
    if not signatures:
        body = body.str.replace(_SIGNATURE, "")
    if not quotes:
        body = body.str.replace_all(_QUOTED, "")
    subject = head.str.extract(r"(?m)^Subject:[ \t]*(.*)$").fill_null("")
    first = {"subject": subject, "all": head, "none": subject.str.slice(0, 0)}[headers]
    text = pl.select((first + "\n" + body).str.strip_chars()).to_series()
    tokens = text.str.to_lowercase().str.extract_all(_WORD)
    # A post that only quotes has no word of its own; it is kept, since it is in the published test.
    tokens = pl.select(
        pl.when(tokens.list.len() > 0).then(tokens).otherwise(pl.lit(["empty"]))
    ).to_series()
    author = pl.select(pl.coalesce(address, sender.str.strip_chars())).to_series()
    return posts.drop("text").with_columns(
        tokens.alias("tokens"), text.alias("text"), author.alias("author")
    )
