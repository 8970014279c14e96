"""Ending a text where a stop string begins, although the text arrives in small parts.

Knows characters only: no ids, no model. Parts may be cut anywhere: only the joined text decides.
"""

from collections.abc import Sequence

from octuor.errors import RequestError


class StopMatcher:
    """Passes text through until one of the stop strings is complete; holds back what may become one.

    The first stop string to be completed wins; of several that end at the same character, the longest. Each
    character costs constant time per stop string (Knuth-Morris-Pratt), whatever the strings are.

    Raises RequestError if a stop string is empty.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        if any(not stop for stop in stops):
            raise RequestError(f"stop: expected strings of at least one character, got {list(stops)!r}; drop the empty")
        self._stops = sorted(set(stops), key=len, reverse=True)
        self._fallbacks = [_fallback_lengths(stop) for stop in self._stops]
        self._matched_lengths = [0] * len(self._stops)  # of each stop, how much the text so far ends with
        self._held = ""
        self._match: str | None = None

    @property
    def match(self) -> str | None:
        """The stop string that ended the text, or None while there is none."""
        return self._match

    def feed(self, delta: str) -> str:
        """The text that may be shown after delta: never a part of a stop string. After a match always ""."""
        if self._match is not None:
            return ""
        if not self._stops:
            return delta
        text = self._held + delta
        for end, char in enumerate(delta, start=len(self._held) + 1):
            self._match = self._advance(char)
            if self._match is not None:
                self._held = ""
                return text[: end - len(self._match)]
        n_free = len(text) - max(self._matched_lengths)
        self._held = text[n_free:]
        return text[:n_free]

    def flush(self) -> str:
        """What was held back, when the text ends for another reason. After a match ""."""
        held, self._held = self._held, ""
        return held

    def _advance(self, char: str) -> str | None:
        for index, (stop, fallback) in enumerate(zip(self._stops, self._fallbacks, strict=True)):
            length = self._matched_lengths[index]
            while length and stop[length] != char:
                length = fallback[length - 1]
            length += stop[length] == char
            if length == len(stop):
                return stop  # longest first, so no longer one ends here
            self._matched_lengths[index] = length
        return None


def _fallback_lengths(stop: str) -> list[int]:
    """For each prefix of stop, the length of its longest proper prefix that is also its end."""
    lengths = [0] * len(stop)
    length = 0
    for end in range(1, len(stop)):
        while length and stop[length] != stop[end]:
            length = lengths[length - 1]
        length += stop[length] == stop[end]
        lengths[end] = length
    return lengths
