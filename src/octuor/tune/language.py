"""What language a text is in, by its script and its commonest words: enough to see what a data set is made of.

No library: those that tell 100 languages apart weigh megabytes or load a model, and a wrong guess costs nothing here.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter

UNKNOWN = "unknown"
FEWEST = 12  # one word in so many has to be a common one, and two at least
_READ = 2000  # characters of a text that are looked at
_WORD = re.compile(r"[^\W\d_]+")
# Words that are frequent in one of these languages and rare, or of other meaning and rare, in the others.
_WORDS = {
    "en": "the and of to is you that it for was with are this have from they what can your not be would there",
    "fr": "les des est une dans que vous pour pas sur au avec il elle sont cette mais ce qui ne je du aux être nous",
    "de": "der die das und ist nicht ein eine ich sie mit auf zu den dem von für sich wie auch wir es im war wird",
    "es": "el los las una que es por con para del se lo como más pero sus está su son muy y usted cuando qué fue",
    "it": "il che di è non una per sono della gli con mi si più anche ma nel alla dei questo ho ci lo molto dove",
    "pt": "o que não uma os para com é do da em no na mais você foi são ele pelo as um muito isso ao está",
    "nl": "de het een van en niet dat ik zijn voor met op te er aan wat maar naar ook bij deze wordt hebben",
}
_SETS = {language: frozenset(words.split()) for language, words in _WORDS.items()}
_SCRIPTS = {
    "CYRILLIC": "Cyrillic", "GREEK": "el", "CJK": "zh", "HIRAGANA": "ja", "KATAKANA": "ja", "HANGUL": "ko",
    "ARABIC": "Arabic script", "HEBREW": "he", "DEVANAGARI": "Devanagari", "THAI": "th",
}  # fmt: skip


def guess_language(text: str) -> str:
    """A language's code, a script's name, or UNKNOWN: of code, of names alone, of a few words."""
    text = text[:_READ]
    scripts = Counter(_script(character) for character in text if character.isalpha())
    if not scripts:
        return UNKNOWN
    script, _ = scripts.most_common(1)[0]
    if scripts["ja"] and script in ("ja", "zh"):
        return "ja"
    if script != "latin":
        return script
    words = Counter(_WORD.findall(text.lower()))
    votes = Counter(
        {language: sum(n for word, n in words.items() if word in known) for language, known in _SETS.items()}
    )
    ranked = votes.most_common(2)
    if ranked[0][1] < max(2, words.total() / FEWEST) or ranked[0][1] == ranked[1][1]:
        return UNKNOWN
    return ranked[0][0]


def _script(character: str) -> str:
    if character < "Ͱ":
        return "latin"
    first = unicodedata.name(character, "").partition(" ")[0].partition("-")[0]
    return _SCRIPTS.get(first, "latin" if first == "LATIN" else "other script")
