"""Readers of sentiment analysis of financial texts: items have the fields text, labels and gold."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from fedloom.suites.items import Item

Records = Sequence[Mapping[str, Any]]

# FinGPT's three classes of NWGI's seven (arXiv 2310.04793).
_NWGI = {
    "strong negative": "negative",
    "moderately negative": "negative",
    "mildly negative": "neutral",
    "neutral": "neutral",
    "mildly positive": "neutral",
    "moderately positive": "positive",
    "strong positive": "positive",
}
_TWEETS = {"bearish": "negative", "neutral": "neutral", "bullish": "positive"}
# Of the hub, where labels are numbers.
_TWEET_NUMBERS = ("bearish", "bullish", "neutral")
SENTIMENTS = ("negative", "neutral", "positive")


def phrasebank(files: Sequence[Records]) -> Iterator[Item]:
    """Financial PhraseBank (Malo et al. 2014, arXiv 1307.5336).

    Args:
        files: one; each record has text, label and agreement.

    Yields:
        Items by how many annotators agreed.
    """
    for place, record in enumerate(files[0]):
        yield _sentiment(str(place), record.get("agreement"), record["text"], record["label"])


def fiqa(files: Sequence[Records]) -> Iterator[Item]:
    """FiQA sentiment analysis (Maia et al. 2018).

    Args:
        files: one; each record has text, label and split.

    Yields:
        The items of the test split.
    """
    for place, record in enumerate(files[0]):
        if record["split"] == "test":
            yield _sentiment(str(place), None, record["text"], record["label"])


def tfns(files: Sequence[Records]) -> Iterator[Item]:
    """Twitter Financial News Sentiment.

    Args:
        files: one; each record has text, label and, but for the hub's, split.

    Yields:
        The items of the validation split; bearish is negative, bullish is positive, as with FinGPT.
    """
    for place, record in enumerate(files[0]):
        if record.get("split", "valid") == "valid":
            label = record["label"]
            name = _TWEET_NUMBERS[label] if isinstance(label, int) else label
            yield _sentiment(str(place), None, record["text"], _TWEETS[name])


def nwgi(files: Sequence[Records]) -> Iterator[Item]:
    """News With GPT Instructions, of FinGPT (arXiv 2310.04793).

    Args:
        files: one; each record has news and label, one of seven.

    Yields:
        Items of three classes, as FinGPT's benchmark joins them.
    """
    for place, record in enumerate(files[0]):
        yield _sentiment(str(place), None, record["news"], _NWGI[record["label"].strip().lower()])


def _sentiment(key: str, category: str | None, text: str, label: str) -> Item:
    if label not in SENTIMENTS:
        raise ValueError(f"example {key}: {label!r} is not one of: {', '.join(SENTIMENTS)}")
    return Item(key, category, {"text": text, "labels": list(SENTIMENTS), "gold": label})
