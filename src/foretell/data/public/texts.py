"""Public data sets of queries, tagged sentences, questions, pairs and running text."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Literal

import polars as pl

from foretell.data.text import PairSet, QuestionSet, TextSet
from foretell.data.text.files import read_table
from foretell.errors import DataError, ParameterError

Pairs = Literal["e2e", "dialogsum", "multi30k", "negotiation"]
Running = Literal["shakespeare_plays", "tinyshakespeare", "wikitext2", "brown", "jane_austen"]


def clinc150(folder: Path, *, out_of_scope: bool = False) -> TextSet:
    """22,500 queries with 150 intents (15,000 / 3,000 / 4,500: parts train, valid, test).

    Column ``domain`` has the ten domains.

    Args:
        folder: where it lies.
        out_of_scope: whether the 1,200 queries of no intent are there too, with intent ``oos``.

    Raises:
        DataError: a file is not as expected.
    """
    file = folder / "data_full.parquet"
    table = read_table(file, ("split", "text", "intent"))
    scope = pl.col("intent") == "oos"
    if not out_of_scope:
        table = table.filter(~scope)
    try:
        domains = json.loads((folder / "domains.json").read_text("utf-8"))
        of_intent = {intent: domain for domain, intents in domains.items() for intent in intents}
    except (OSError, ValueError, AttributeError, TypeError) as error:
        raise DataError(
            f"the domains cannot be read: {error}", file=str(folder / "domains.json"),
            hint="A JSON object of lists of intents is needed",
        ) from error  # fmt: skip
    part = pl.col("split").str.strip_prefix("oos_").replace("val", "valid")
    frame = table.select(
        pl.col("text").alias("tokens"), "intent", part.alias("split"),
        pl.col("intent").replace_strict(of_intent, default="oos").alias("domain"),
    )  # fmt: skip
    return TextSet.from_frame(frame, file=str(file))


def wnut17(folder: Path) -> TextSet:
    """3,394 / 1,009 / 1,287 sentences of the web (train, valid, test) with six kinds of entities.

    Where annotators of the test part left several kinds open (``B-person,B-group``), the first is
    taken; the column ``kinds_left_open`` counts such tokens of a sentence.

    Raises:
        DataError: a file is not as expected.
    """
    parts = []
    for name, split in (("train", "train"), ("dev", "valid"), ("test", "test")):
        table = read_table(folder / f"{name}.parquet", ("sent_id", "token", "tag"))
        parts.append(
            table.group_by("sent_id", maintain_order=True)
            .agg(
                pl.col("token").alias("tokens"),
                pl.col("tag").cast(pl.String).str.splitn(",", 2).struct[0].alias("slots"),
                pl.col("tag").cast(pl.String).str.contains(",").sum().alias("kinds_left_open"),
            )
            .select("tokens", "slots", pl.lit(split).alias("split"), "kinds_left_open")
        )
    return TextSet.from_frame(pl.concat(parts), file=str(folder))


def xquad(folder: Path, *, test_share: int = 5) -> QuestionSet:
    """1,190 questions on 240 paragraphs of 48 articles, a part of SQuAD 1.1.

    There is no published split: every fifth article is ``test``, the others ``train``, so that no
    paragraph is in both. Column ``title`` names the article.

    Args:
        folder: where it lies.
        test_share: one article of how many is test.

    Raises:
        ParameterError: a share below 2.
        DataError: the file is not as expected.
    """
    if test_share < 2:
        raise ParameterError(f"test_share must be at least 2, not {test_share}")
    file = folder / "xquad_en.parquet"
    table = read_table(file, ("title", "context", "id", "question", "answer_text", "answer_start"))
    number = pl.col("title").rank("dense").over(pl.lit(1)) - 1
    frame = table.select(
        "id", "title", "context", pl.col("question").str.strip_chars(),
        pl.col("answer_text").alias("answers"), pl.col("answer_start").alias("starts"),
        pl.when(number % test_share == test_share - 1)
        .then(pl.lit("test")).otherwise(pl.lit("train")).alias("split"),
    )  # fmt: skip
    return QuestionSet.from_frame(frame, file=str(file))


def question_generation(folder: Path) -> PairSet:
    """22,447 sentences and a question on each, lower case and tokenised.

    Parts as in the source: ``train`` is its development part (10,570 pairs) and ``test`` its test
    part (11,877), which is a part of SQuAD's training data.

    Raises:
        DataError: a file is not as expected.
    """
    parts = []
    for name, split in (("dev", "train"), ("test", "test")):
        table = read_table(
            folder / f"nqg_sentence_question_{name}.parquet", ("sentence", "question")
        )
        parts.append(
            table.select(
                pl.col("sentence").alias("source"), pl.col("question").alias("target"),
                pl.lit(split).alias("split"),
            )
        )  # fmt: skip
    return PairSet.from_frame(pl.concat(parts), file=str(folder))


def seq2seq_small(folder: Path, *, corpus: Pairs = "e2e") -> PairSet:
    """Pairs of texts.

    ``e2e``: meaning representations of restaurants and sentences (published development part as
    ``train``, with a row a sentence; test part with a row a meaning and all its ``references``).
    ``dialogsum``: dialogues and summaries (development part as ``train``; test has three
    references). ``multi30k``: captions in English and German. ``negotiation``: what was said so far
    and the next turn, of Deal or No Deal; every tenth dialogue is ``test``.

    Raises:
        ParameterError: another corpus.
        DataError: a file is not as expected.
    """
    if corpus == "e2e":
        frame = _e2e(folder)
    elif corpus == "dialogsum":
        frame = _dialogsum(folder)
    elif corpus == "multi30k":
        frame = read_table(folder / "multi30k_en_de.parquet", ("split", "en", "de")).select(
            pl.col("en").alias("source"), pl.col("de").alias("target"),
            pl.col("split").replace({"val": "valid", "test_2016_flickr": "test"}),
        )  # fmt: skip
    elif corpus == "negotiation":
        frame = _negotiation(folder)
    else:
        raise ParameterError(
            f"corpus must be 'e2e', 'dialogsum', 'multi30k' or 'negotiation', not {corpus!r}"
        )
    return PairSet.from_frame(frame, file=str(folder))


def _e2e(folder: Path) -> pl.DataFrame:
    train = read_table(folder / "e2e_dev.parquet", ("mr", "ref"))
    test = read_table(folder / "e2e_test.parquet", ("mr", "ref"))
    own = pl.col("ref").str.strip_chars()
    return pl.concat(
        [
            train.select(
                pl.col("mr").alias("source"), own.alias("target"),
                pl.concat_list(own).alias("references"), pl.lit("train").alias("split"),
            ),
            test.group_by("mr", maintain_order=True).agg(own.alias("references")).select(
                pl.col("mr").alias("source"), pl.col("references").list.first().alias("target"),
                "references", pl.lit("test").alias("split"),
            ),
        ]
    )  # fmt: skip


def _dialogsum(folder: Path) -> pl.DataFrame:
    train = read_table(folder / "dialogsum_dev.parquet", ("dialogue", "summary"))
    three = ("summary1", "summary2", "summary3")
    test = read_table(folder / "dialogsum_test.parquet", ("dialogue", *three))

    def part(table: pl.DataFrame, targets: tuple[str, ...], split: str) -> pl.DataFrame:
        return table.select(
            pl.col("dialogue").alias("source"), pl.col(targets[0]).alias("target"),
            pl.concat_list(targets).alias("references"), pl.lit(split).alias("split"),
        )  # fmt: skip

    return pl.concat([part(train, ("summary",), "train"), part(test, three, "test")])


def _negotiation(folder: Path) -> pl.DataFrame:
    table = read_table(folder / "deal_or_no_deal.parquet", ("line",))
    rows: list[tuple[str, str, str]] = []
    for number, line in enumerate(table["line"]):
        cells = line.split(" ")
        heard = ["goods " + " ".join(cells[:6])]
        # Both sides of a dialogue follow each other, and must not be parted.
        split = "test" if number // 2 % 10 == 9 else "train"
        for turn in " ".join(cells[6:]).split(" <eos>"):
            speaker, _, said = turn.strip().partition(": ")
            if said.startswith("<selection>") or speaker not in ("YOU", "THEM"):
                break
            if said.strip() and speaker == "YOU":
                rows.append((" ".join(heard), said.strip(), split))
            heard.append(turn.strip())
    return pl.DataFrame(rows, schema=["source", "target", "split"], orient="row")


def lm_text(folder: Path, *, corpus: Running = "shakespeare_plays") -> TextSet:
    """Running text, a row a speech, sentence or line; column ``text`` has it as it stands.

    ``shakespeare_plays`` (6,912 speeches) and ``tinyshakespeare`` have a column ``author``, the
    speaker, by whom a federation is parted. Parts ``train`` and ``test``: every tenth speech of
    each speaker; ``wikitext2`` as published (its validation and test parts); every tenth line of
    the others.

    Raises:
        ParameterError: another corpus.
        DataError: a file is not as expected.
    """
    every = pl.int_range(pl.len())
    if corpus == "shakespeare_plays":
        table = read_table(folder / "shakespeare_plays.parquet", ("play", "speaker", "text"))
        speaker = pl.concat_str("play", "speaker", separator=":")
        table = table.select("text", speaker.alias("author"))
        every = every.over("author")
    elif corpus == "tinyshakespeare":
        lines = read_table(folder / "tinyshakespeare.parquet", ("line",))["line"]
        table = _speeches(lines.fill_null("").to_list())
        every = every.over("author")
    elif corpus == "wikitext2":
        parts = [
            read_table(folder / f"wikitext2_{file}.parquet", ("line",)).select(
                pl.col("line").str.strip_chars().alias("text"), pl.lit(part).alias("split")
            )
            for file, part in (("valid", "train"), ("test", "test"))
        ]
        table = pl.concat(parts)
    elif corpus == "brown":
        table = read_table(folder / "brown.parquet", ("category", "sentence")).select(
            pl.col("sentence").alias("text"), pl.col("category").cast(pl.String).alias("author")
        )
    elif corpus == "jane_austen":
        table = read_table(folder / "jane_austen.parquet", ("book", "line")).select(
            pl.col("line").alias("text"), pl.col("book").alias("author")
        )
    else:
        raise ParameterError(f"there is no corpus {corpus!r}; see the documentation of lm_text")
    table = table.filter(pl.col("text").str.contains(r"\S"))
    if "split" not in table.columns:
        part = pl.when(every % 10 == 9).then(pl.lit("test")).otherwise(pl.lit("train"))
        table = table.with_columns(part.alias("split"))
    tokens = pl.col("text").str.extract_all(r"\S+").alias("tokens")
    return TextSet.from_frame(table.with_columns(tokens), file=str(folder))


def _speeches(lines: list[str]) -> pl.DataFrame:
    """Speeches of a play as printed: the speaker and a colon, lines, an empty line."""
    rows: list[tuple[str, str]] = []
    speaker, said = "", [""][:0]
    for line in [*lines, ""]:
        if not line.strip():
            if speaker and said:
                rows.append(("\n".join(said), speaker))
            speaker, said = "", []
        elif not speaker:
            speaker = line.strip().removesuffix(":")
        else:
            said.append(line)
    return pl.DataFrame(rows, schema=["text", "author"], orient="row")
