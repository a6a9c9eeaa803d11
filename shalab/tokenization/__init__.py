"""Tokenizations, what can be gained by choosing one, and what a text honestly costs.

A text is bytes. A tokenizer cuts it into tokens, a model charges -ln p(token | all tokens before it), and the number
that is published divides the sum by a count of something. The attacks change what is published without predicting the
text any better; `honest_bits_per_byte` is the defence.

In reading order, each file importing only files before it: `tokenizer`, `pieces`, `counting`, `accounts`, `attacks`.
"""

from shalab.tokenization.accounts import Claim, honest_bits_per_byte, judge, table, verified_nats
from shalab.tokenization.attacks import (
    closed_vocabulary,
    collapse_spaces,
    denominators,
    deterministic_splitting,
    lossy_normalisation,
    lowercase,
    mask_digits,
    score,
    strip_accents,
    trained_on_the_text,
    wrong_denominator,
)
from shalab.tokenization.counting import END, NGram, spelled, speller, with_ends
from shalab.tokenization.pieces import best_nats, by_place, chop, grouped, marginal_nats
from shalab.tokenization.tokenizer import KINDS, Tokenizer, long_words, train_tokenizer, word_lengths

__all__ = [
    "Claim", "honest_bits_per_byte", "judge", "table", "verified_nats",
    "closed_vocabulary", "collapse_spaces", "denominators", "deterministic_splitting", "lossy_normalisation",
    "lowercase", "mask_digits", "score", "strip_accents", "trained_on_the_text", "wrong_denominator",
    "END", "NGram", "spelled", "speller", "with_ends",
    "best_nats", "by_place", "chop", "grouped", "marginal_nats",
    "KINDS", "Tokenizer", "long_words", "train_tokenizer", "word_lengths",
]  # fmt: skip
