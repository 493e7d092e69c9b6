"""The faults of a module: what cosmic-ray's operators make of it, and handlers that handle nothing."""

from __future__ import annotations

import ast
import difflib
import re
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

EQUIVALENT = Path(__file__).with_name("equivalent.toml")

# Of the replacements of an operator, those that say the most. `|` is left alone, as it mostly stands in types.
OPERATORS = (
    "AddNot",
    "NumberReplacer",
    "ReplaceAndWithOr",
    *(f"ReplaceBinaryOperator_{change}" for change in ("Add_Sub", "Sub_Add", "Mul_Div", "Div_Mul", "FloorDiv_Mul")),
    *(f"ReplaceBinaryOperator_{change}" for change in ("Mod_Mul", "Pow_Mul", "LShift_RShift", "RShift_LShift")),
    *(f"ReplaceBinaryOperator_{change}" for change in ("BitAnd_BitXor", "BitXor_BitAnd")),
    "ReplaceBreakWithContinue",
    *(f"ReplaceComparisonOperator_{change}" for change in ("Eq_NotEq", "NotEq_Eq", "Is_IsNot", "IsNot_Is")),
    *(f"ReplaceComparisonOperator_{change}" for change in ("Lt_LtE", "Lt_Gt", "LtE_Lt", "LtE_GtE")),
    *(f"ReplaceComparisonOperator_{change}" for change in ("Gt_GtE", "Gt_Lt", "GtE_Gt", "GtE_LtE")),
    "ReplaceContinueWithBreak",
    "ReplaceFalseWithTrue",
    "ReplaceOrWithAnd",
    "ReplaceTrueWithFalse",
    *(f"ReplaceUnaryOperator_Delete_{operator}" for operator in ("Invert", "Not", "USub")),
    "ZeroIterationForLoop",
)

# In decorators, as in `@dataclass(frozen=True, slots=True)`, nothing is seen from outside, nor of what only type
# checkers read.
LEFT_ALONE = re.compile(r"\s*(@|if TYPE_CHECKING:)")
BETWEEN_PARAMETERS = "*,"  # which is no operator


@dataclass(frozen=True)
class Fault:
    """A module with one change."""

    module: Path
    code: str
    changed: str

    def diff(self) -> str:
        """What it changes, for people."""
        lines = difflib.unified_diff(
            self.code.splitlines(), self.changed.splitlines(), str(self.module), str(self.module), lineterm=""
        )
        return "\n".join(lines)

    def lines(self) -> tuple[str, str]:
        """The changed lines, before and after, without what space is between words."""
        changes = list(difflib.unified_diff(self.code.splitlines(), self.changed.splitlines(), n=0, lineterm=""))[3:]
        before, after = (" ".join(line[1:] for line in changes if line.startswith(sign)) for sign in "-+")
        return _one_line(before), _one_line(after)


def faults_of(tree: Path, module: Path) -> list[Fault]:
    """All faults of a module of `tree`, in the order of their places, without those that Python itself refuses."""
    from cosmic_ray.ast import ast_nodes, get_ast  # type: ignore[import-not-found]  # is elsewhere installed
    from cosmic_ray.mutating import mutate_code  # type: ignore[import-not-found]
    from cosmic_ray.plugins import get_operator  # type: ignore[import-not-found]

    code = (tree / module).read_text()
    nodes, lines = list(ast_nodes(get_ast(code))), code.splitlines()
    changes = list(without_handlers(code))
    for name in OPERATORS:
        operator = get_operator(f"core/{name}")()
        places = [start for node in nodes for start, _ in operator.mutation_positions(node)]
        changes += [(place, mutate_code(code, operator, nth)) for nth, place in enumerate(places)]
    return [
        Fault(module, code, changed)
        for (line, column), changed in sorted(changes)
        if not LEFT_ALONE.match(lines[line - 1])
        and not lines[line - 1].startswith(BETWEEN_PARAMETERS, column)
        and _is_python(changed)
    ]


def equivalent_changes(folder: Path, modules: set[Path]) -> set[tuple[Path, str, str]]:
    """Changes of these modules, which are below `folder`, that are no faults: the module, and the lines before and
    after."""
    return {
        (module, _one_line(each["line"]), _one_line(becomes))
        for each in tomllib.loads(EQUIVALENT.read_text())["equivalent"]
        if (module := folder / each["module"]) in modules
        for becomes in each["becomes"]
    }


def _one_line(code: str) -> str:
    return " ".join(code.split())


def _is_python(code: str) -> bool:
    try:
        ast.parse(code)
    except SyntaxError:
        return False
    return True


def without_handlers(code: str) -> Iterator[tuple[tuple[int, int], str]]:
    """The place of each error that is handled, and the code with one that nothing raises in its stead.

    cosmic-ray has an operator for this, which puts a name there that is not defined, and fails at dotted names.
    """
    starts = [0]
    for line in code.encode().splitlines(keepends=True):
        starts.append(starts[-1] + len(line))
    for handler in ast.walk(ast.parse(code)):
        if isinstance(handler, ast.ExceptHandler) and handler.type is not None:
            for error in handler.type.elts if isinstance(handler.type, ast.Tuple) else [handler.type]:
                assert error.end_lineno is not None
                assert error.end_col_offset is not None
                before = code.encode()[: starts[error.lineno - 1] + error.col_offset]
                after = code.encode()[starts[error.end_lineno - 1] + error.end_col_offset :]
                yield (error.lineno, error.col_offset), (before + b"FloatingPointError" + after).decode()
