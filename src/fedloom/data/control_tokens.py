"""Control tokens, such as the one that ends a turn: a template writes them, a record can only spell them out.

A record may hold the text "</s>": a page about tokenizers, or an attempt to end the prompt early. Read as the token it
would teach the model to stop in the middle of an answer, or let one data owner forge turns. It stays text; the same
letters written by the template stay the token. What marks and encodes such text is transformers' own
(`apply_chat_template(..., sanitize_control_tokens=True)`), taken apart because our segments are encoded one by one.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from transformers.utils.chat_template_utils import encode_marked_chat, mark_control_tokens

from fedloom.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# Two characters of Unicode's private use, which transformers puts around what must stay text.
_START, _, _END = mark_control_tokens("x", re.compile("x"))


class ControlTokens:
    """Marks where a record spells a control token out.

    Control tokens are the added tokens that a tokenizer calls special. Others, such as <think>, are words a record may
    use.

    Args:
        tokenizer: of the base model.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        added = getattr(tokenizer, "added_tokens_decoder", {})
        self.ids = {place for place, token in added.items() if token.special}
        # The longest first: "<|end|>" is not "<|end" and a rest.
        spelt = sorted({added[place].content for place in self.ids}, key=lambda text: (-len(text), text))
        self._pattern = re.compile("|".join(map(re.escape, spelt)) or "(?!)")

    def mark(self, text: str) -> str:
        """Mark a record's text.

        Args:
            text: of a record.

        Returns:
            The text, with marks around each control token; marks that it brought along are gone.
        """
        return str(mark_control_tokens(text, self._pattern))


def is_marked(text: str) -> bool:
    """Tell whether a text spells a control token out."""
    return _START in text or _END in text


def unmark(text: str) -> str:
    """Give a marked text as it reads."""
    return text.replace(_START, "").replace(_END, "")


def encode_marked(text: str, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Encode a marked text: what is marked as plain text, control tokens elsewhere as such.

    Args:
        text: of a segment.
        tokenizer: of the base model.

    Returns:
        Token ids, without any the tokenizer puts around a text.

    Raises:
        UserError: where the tokenizer gives the control token for its letters whatever one does.
    """
    try:
        return [int(token) for token in encode_marked_chat(tokenizer, text)]
    except ValueError as error:
        raise UserError(
            f"model.base: a record spells a control token out that must stay text, and can't: {error}"
        ) from None
