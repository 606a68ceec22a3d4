"""A pool of KV-cache blocks with real block ids: every block is either free or held by exactly one request."""

from collections import deque


class BlockPool:
    """`num_blocks` blocks; a free list popped from its head, and the ids that each request holds in sequence order."""

    def __init__(self, num_blocks: int):
        self.num_blocks = num_blocks
        self.free: deque[int] = deque(range(num_blocks))
        self.held: dict[int, list[int]] = {}
        self._owner: list[int | None] = [None] * num_blocks

    @property
    def num_free(self) -> int:
        return len(self.free)

    def num_held(self, request: int) -> int:
        return len(self.held.get(request, []))

    def grow(self, request: int, num_blocks: int) -> bool:
        """Let `request` hold at least `num_blocks` blocks. All or nothing: False, and no change, when the pool lacks them."""
        missing = num_blocks - self.num_held(request)
        if missing > self.num_free:
            return False
        for _ in range(missing):
            block = self.free.popleft()
            assert self._owner[block] is None, f"block {block} is held twice"
            self._owner[block] = request
            self.held.setdefault(request, []).append(block)
        return True

    def release(self, request: int) -> None:
        """Give every block of `request` back, the last of its sequence first."""
        for block in reversed(self.held.pop(request, [])):
            assert self._owner[block] == request, f"block {block} is not held by request {request}"
            self._owner[block] = None
            self.free.append(block)

    def check(self) -> None:
        held = sum(len(blocks) for blocks in self.held.values())
        assert self.num_free + held == self.num_blocks, f"{self.num_free} free + {held} held != {self.num_blocks} blocks"

    def check_all_free(self) -> None:
        assert sorted(self.free) == list(range(self.num_blocks)), "a block did not come back"
