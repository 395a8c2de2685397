"""Which words does a model's own tokenizer know, and which token is which?"""

from collections.abc import Sequence

from gatekeeper.clip.adapters_tokenizers import FastTokens, SimpleTokens, simple_tokenizer
from gatekeeper.clip.model import ClipModel
from gatekeeper.scan.text_marks import CHARACTER, WORD, Sign

ANY = "o"  # the letter that gives way to a token of unknown likeness: most prompts have one


def token_texts(model: ClipModel) -> dict[int, str]:
    """Return every token that can be written down, by its number; {} for a foreign tokenizer.

    Byte pairs that are no whole characters cannot be written down alone and are left out.
    """
    if isinstance(model.tokenize, SimpleTokens):
        own = simple_tokenizer(model.tokenize.clean)
        raw = {number: _from_bytes(text, own.byte_decoder) for number, text in own.decoder.items()}
    elif isinstance(model.tokenize, FastTokens):
        backend = model.tokenize.backend
        raw = {number: backend.decode([number]) for number in backend.get_vocab().values()}
    else:
        return {}
    return {n: t.strip() for n, t in sorted(raw.items()) if t.strip() and "\ufffd" not in t}


def signs_of(model: ClipModel, texts: dict[int, str], tokens: Sequence[int]) -> list[Sign]:
    """Return the signs of those `tokens` that something written leads back to, in their order.

    A token that stands within words alone is a character for a letter, any letter.
    """
    known = [(token, texts[token]) for token in tokens if token in texts]
    if not known:
        return []
    alone = model.tokenize([text for _, text in known])
    within = model.tokenize([f"b{text}b" for _, text in known])
    out = []
    for (token, text), word, part in zip(known, alone, within, strict=True):
        if bool((word == token).any()):
            out.append(Sign(text=text, kind=WORD))
        elif bool((part == token).any()):
            out.append(Sign(text=text, kind=CHARACTER, letter=ANY))
    return out


def _from_bytes(text: str, decoder: dict[str, int]) -> str:
    plain = text.removesuffix("</w>")
    if plain.startswith("<") and plain.endswith("_text>"):  # start and end
        return ""
    return bytes(decoder[c] for c in plain if c in decoder).decode("utf-8", errors="replace")
