"""Number of kernels that a tick launches, read from the text of a compiled module (`compiled.as_text()`).

Relies only on the format common to all XLA backends: computations with a header line that ends in "{", one instruction per line.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass

# Bookkeeping of the compiler that executes no code.
FREE = {"parameter", "constant", "get-tuple-element", "tuple", "bitcast", "after-all", "add-dependency", "partition-id", "replica-id"}

_HEADER = re.compile(r"^(ENTRY )?%?([\w.\-]+) .*\{\s*$")
_ASSIGNMENT = re.compile(r"^\s+(?:ROOT )?%?([\w.\-]+) = ")
_OPCODE = re.compile(r"\s*([a-z][\w\-]*)\(")
_CALLED = re.compile(r"\b(body|condition|to_apply|calls|branch_computations|true_computation|false_computation)=(\{[^}]*\}|%?[\w.\-]+)")


@dataclass(frozen=True)
class Instruction:
    """One line of a computation; `called` holds (role, computation) pairs such as ("body", "region_0.103")."""

    name: str
    opcode: str
    called: tuple[tuple[str, str], ...]

    def computations(self, *roles: str) -> list[str]:
        return [computation for role, computation in self.called if role in roles]


@dataclass(frozen=True)
class Kernels:
    """Kernels of one iteration of a loop.

    Attributes:
        by_opcode: kernels that run in every iteration, the loop's condition included.
        nested: kernels in branches of conditionals and in inner loops (each counted once), which may or may not run.
    """

    by_opcode: Counter[str]
    nested: int

    @property
    def total(self) -> int:
        return self.by_opcode.total()


def parse(text: str) -> dict[str, list[Instruction]]:
    """Computations of a module by name."""
    module: dict[str, list[Instruction]] = {}
    current: list[Instruction] | None = None
    for line in text.splitlines():
        if line.startswith("}"):
            current = None
        elif (assignment := _ASSIGNMENT.match(line)) and current is not None:
            rest = line[assignment.end() :]
            if opcode := _OPCODE.match(rest, _end_of_type(rest)):
                found = [(role, name.lstrip("%")) for role, names in _CALLED.findall(rest) for name in re.split(r"[{},\s]+", names) if name]
                current.append(Instruction(assignment[1], opcode[1], tuple(found)))
        elif (header := _HEADER.match(line)) and not line.startswith("HloModule"):
            current = module.setdefault(header[2], [])
    return module


def _end_of_type(text: str) -> int:
    """End of the type in front of an opcode; a tuple's type has parentheses, which may be nested."""
    if not text.startswith("("):
        return text.find(" ")
    depth = 0
    for i, character in enumerate(text):
        depth += (character == "(") - (character == ")")
        if depth == 0:
            return i + 1
    return len(text)


def loop_kernels(text: str) -> Kernels:
    """Kernels of one iteration of the loop that launches the most; code outside of loops does not count.

    Raises:
        ValueError: the module has no loop.
    """
    module = parse(text)
    loops = [instruction for computation in module.values() for instruction in computation if instruction.opcode == "while"]
    if not loops:
        raise ValueError("the module has no while loop")
    return max((_trip(module, loop) for loop in loops), key=lambda kernels: kernels.total)


def _trip(module: dict[str, list[Instruction]], loop: Instruction) -> Kernels:
    parts = [_count(module, name) for name in loop.computations("body", "condition")]
    return Kernels(sum((part.by_opcode for part in parts), Counter()), sum(part.nested for part in parts))


def _count(module: dict[str, list[Instruction]], computation: str) -> Kernels:
    """Kernels of an instruction: a fusion is one kernel, a call stands for its callee, and conditionals and loops add nested kernels."""
    by_opcode: Counter[str] = Counter()
    nested = 0
    for instruction in module.get(computation, []):
        if instruction.opcode in FREE:
            continue
        inner = []
        if instruction.opcode == "call":
            inner = [_count(module, name) for name in instruction.computations("to_apply", "calls")]
            by_opcode = sum((part.by_opcode for part in inner), by_opcode)
            nested += sum(part.nested for part in inner)
            continue
        if instruction.opcode in ("conditional", "while"):
            roles = ("body", "condition", "branch_computations", "true_computation", "false_computation")
            inner = [_count(module, name) for name in instruction.computations(*roles)]
        by_opcode[instruction.opcode] += 1
        nested += sum(part.total + part.nested for part in inner)
    return Kernels(by_opcode, nested)
