"""Address space for more than memory holds: each range has an address for ever, and memory only while it is in use.

So what is made over a range stays valid, sizes may differ, and nothing is ever moved or cut to pieces. Memory that a
range gives up goes to another by a change of page tables (mremap), without being cleared by the system on the way:
reading into new pages costs a third more CPU, and on virtual machines the first touch of a page can cost far more.
"""

from __future__ import annotations

import mmap
import sys

import numpy as np

from octuor.checkpoint.memory import HUGE_PAGE, MADV_HUGEPAGE, Bytes, advise, libc
from octuor.errors import BackendError

MADV_DONTNEED = 4
MAP_NORESERVE = 0x4000  # Linux on every processor we run on; Python has it from 3.13 on
MREMAP_MAYMOVE_FIXED_DONTUNMAP = 1 | 2 | 4  # the last from Linux 5.7 on
LARGE = 8 << 20  # ranges from here on are whole huge pages


class Arena:
    """Ranges of private memory, taken as they are written.

    sizes   bytes of each range
    begins  of each range in `bytes`, at edges of pages, huge ones where ranges are large
    page    what a range's memory is a multiple of
    """

    def __init__(self, sizes: list[int]) -> None:
        if sys.platform != "linux":
            raise BackendError(f"memory: a limit of memory needs Linux, found {sys.platform}; leave it out")
        self.page = HUGE_PAGE if max(sizes, default=0) >= LARGE else mmap.PAGESIZE
        self.begins, end = [], 0
        for size in sizes:
            self.begins.append(end)
            end += self.room(size)
        try:
            whole = mmap.mmap(-1, end + HUGE_PAGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | MAP_NORESERVE)
        except OSError as error:
            raise BackendError(
                f"memory: expected address space for {end} bytes, the system gives none ({error.strerror}); "
                "raise `ulimit -v`"
            ) from error
        self.bytes: Bytes = np.frombuffer(whole, dtype=np.uint8)
        self.bytes = self.bytes[-self.bytes.ctypes.data % HUGE_PAGE :][: end or 1]
        if self.page == HUGE_PAGE:
            advise(self.bytes, MADV_HUGEPAGE)  # refused where there are none: then pages are small

    def room(self, size: int) -> int:
        """Bytes of memory that a range of that size takes at most."""
        return -(-size // self.page) * self.page

    def release(self, begin: int, n_bytes: int) -> None:
        """Give a range's memory back to the system; it reads as zeros."""
        if n_bytes:
            advise(self.bytes[begin : begin + n_bytes], MADV_DONTNEED)

    def move(self, begin: int, to: int, n_bytes: int) -> bool:
        """Give a range's memory, with what it holds, to another one; False: the system cannot, nothing has changed.

        All three are multiples of `page`, and the other range has no memory.
        """
        c = libc()
        if c is None or not n_bytes:
            return False
        start = self.bytes.ctypes.data
        found = c.mremap(start + begin, n_bytes, n_bytes, MREMAP_MAYMOVE_FIXED_DONTUNMAP, start + to)
        return bool(found == start + to)
