"""Token ids of a text as CLIP's tokenizer gives them; `sample.py`, beside which this file lies, asks for them."""

import itertools
import json
import re
import unicodedata
from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__).resolve().parent
SPACE = r"[\t-\r \x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000]+"  # as in the tokenizer
WORD = re.compile(r"'s|'t|'re|'ve|'m|'ll|'d|[a-z]+|[0-9]|[^ a-z0-9]+")
CHUNK = rf"<\|(?:start|end)oftext\|>|{WORD.pattern}"  # cut first, and then into words


def token_ids(text: str, about: dict[str, Any]) -> np.ndarray:
    """Ids [1,tokens] of a text by CLIP's byte pair encoding. Sennrich et al. 2016; Radford et al. 2021."""
    tokenizer = json.loads((HERE / about["tokenizer"]).read_text("utf-8"))
    model = tokenizer["model"]
    if model["type"] != "BPE":
        raise SystemExit("the bundle's tokenizer is not CLIP's: pip install compress-diffusion, and compress sample")
    merges = (pair if isinstance(pair, list) else pair.split(" ") for pair in model["merges"])
    ranks, vocabulary = {tuple(pair): rank for rank, pair in enumerate(merges)}, model["vocab"]
    plain = [b for b in range(256) if 33 <= b <= 126 or 161 <= b <= 172 or b >= 174]
    letters = {b: chr(b) for b in plain} | {b: chr(256 + i) for i, b in enumerate(sorted({*range(256)} - {*plain}))}
    special = {token["content"]: token["id"] for token in tokenizer["added_tokens"]}
    kinds, ids = {"L": "a", "N": "0"}, list[int]()
    for part in re.split(f"({'|'.join(map(re.escape, special)) or '(?!)'})", text):
        if part in special:
            ids.append(special[part])
            continue
        part = re.sub(SPACE, " ", "".join(c.lower() for c in unicodedata.normalize("NFC", part)))
        shape = "".join(c if c.isascii() else kinds.get(unicodedata.category(c)[0], "!") for c in part)
        spans = (word.span() for chunk in re.finditer(CHUNK, shape) for word in WORD.finditer(shape, *chunk.span()))
        for start, end in spans:
            word = [letters[b] for b in part[start:end].encode()]
            word[-1] += "</w>"
            while pairs := [pair for pair in itertools.pairwise(word) if pair in ranks]:
                best, rest, word = min(pairs, key=ranks.__getitem__), word, []
                while rest:
                    size = 2 if tuple(rest[:2]) == best else 1
                    word, rest = [*word, "".join(rest[:size])], rest[size:]
            ids += [vocabulary[piece] for piece in word]
    ids = [vocabulary["<|startoftext|>"], *ids[: about["tokens"] - 2], vocabulary["<|endoftext|>"]]
    return np.array([ids + [about["pad"]] * (about["tokens"] - len(ids))])
