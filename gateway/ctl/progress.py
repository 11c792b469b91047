"""The progress bar, the rate behind it, and the line on which it is drawn."""

from __future__ import annotations

from typing import TextIO

from attrs import define, field

from gateway.ctl.display import age, rate, size

_ROOM = 10
#: How much of a rate is the newest measurement.
_FRESH = 0.3


def bar(
    width: int,
    fraction: float | None,
    speed: float | None = None,
    eta: float | None = None,
    moved: str = "",
) -> str:
    """``[####----]  50%  1.0 GiB of 2.0 GiB  12.3 MiB/s  ETA 3m12s``, never wider than *width*.

    What does not fit is left out, from the right. 100% only stands there when all is done.

    :param fraction: 0 to 1, None when nobody knows.
    :param speed: bytes a second.
    :param eta: seconds.
    """
    words = []
    if fraction is not None:
        fraction = min(1.0, max(0.0, fraction))
        words.append(f"{int(fraction * 100):3}%")
    words += [moved] if moved else []
    words += [rate(speed)] if speed is not None else []
    words += [f"ETA {age(eta)}"] if eta is not None else []
    while words and width - len("  ".join(["", *words])) < _ROOM:
        words.pop()
    text = "  ".join(["", *words])
    room = min(40, width - len(text)) - 2
    if fraction is None or room < 1:
        return text.strip()[: max(0, width)]
    full = int(room * fraction)
    return f"[{'#' * full}{'-' * (room - full)}]{text}"


@define
class Meter:
    """Bytes a second of a transfer, smoothed.

    :ivar total: bytes in all.
    :ivar rate: None until there were two measurements.
    """

    total: int
    moved: int = 0
    rate: float | None = None
    _last: tuple[float, int] | None = field(default=None, init=False)

    def measure(self, now: float, moved: int) -> None:
        """Take into account that *moved* bytes were transferred by *now*, in seconds."""
        self.moved = moved
        if self._last is not None and now > self._last[0]:
            fresh = max(0.0, (moved - self._last[1]) / (now - self._last[0]))
            self.rate = fresh if self.rate is None else self.rate + _FRESH * (fresh - self.rate)
        self._last = (now, moved)

    @property
    def fraction(self) -> float:
        """What part is done; of nothing, all."""
        return 1.0 if self.total <= 0 else min(1.0, self.moved / self.total)

    @property
    def eta(self) -> float | None:
        """Seconds that are left, None while nobody can tell."""
        return (self.total - self.moved) / self.rate if self.rate and self.moved <= self.total else None

    def draw(self, width: int) -> str:
        """The bar of this moment."""
        moved = f"{size(self.moved)} of {size(self.total)}"
        return bar(width, self.fraction, self.rate, self.eta, moved)


@define
class ProgressLine:
    """One line that is drawn again and again on a terminal; elsewhere, a line now and then.

    :ivar width: columns, None when *stream* is no terminal.
    """

    stream: TextIO
    width: int | None
    _shown: str = field(default="", init=False)
    _tenth: int = field(default=-1, init=False)

    def draw(self, meter: Meter) -> None:
        """Show *meter*."""
        if self.width is not None:
            self._shown = meter.draw(self.width - 1)
            self.stream.write(f"\r{self._shown}\x1b[K")
        elif (tenth := int(meter.fraction * 10)) != self._tenth:
            self._tenth = tenth
            self.stream.write(meter.draw(78).partition("]")[2].strip() + "\n")
        self.stream.flush()

    def close(self) -> None:
        """Leave the line as it is."""
        if self._shown:
            self.stream.write("\n")
            self.stream.flush()
            self._shown = ""
