"""Public functions with tensors have docstrings with shapes, and formulas state their source."""

import ast

import pytest
from paths import ROOT

FILES = sorted([*ROOT.glob("model/**/*.py"), *ROOT.glob("eval/**/*.py")])
# Where the formulas are.
WITH_SOURCE = ("model/grounding", "eval/metrics")
JAXTYPING = ("Float", "Bool", "Int", "UInt8", "Shaped")


def _public(path):
    """Yield (name, function, docstrings of its class and module) of every public function with tensors in its
    signature.
    """
    tree = ast.parse(path.read_text())
    for owner in [
        tree,
        *[node for node in tree.body if isinstance(node, ast.ClassDef) and not node.name.startswith("_")],
    ]:
        for node in owner.body:
            public = isinstance(node, ast.FunctionDef) and (not node.name.startswith("_") or node.name == "__call__")
            if (
                public
                and "Tensor" in _signature(node)
                and not any("staticmethod" in ast.unparse(decorator) for decorator in node.decorator_list)
            ):
                yield (
                    f"{path.relative_to(ROOT)}: {node.name}",
                    node,
                    f"{ast.get_docstring(tree)} {ast.get_docstring(owner)}",
                )


def _signature(node):
    return " ".join(map(ast.unparse, _hints(node)))


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_public_functions_have_a_docstring_and_say_the_shapes_of_their_tensors(path):
    for name, node, _ in _public(path):
        assert ast.get_docstring(node), f"{name} has no docstring"
        bare = [ast.unparse(hint) for hint in _hints(node) if _is_bare(hint)]
        assert not bare, f"{name} has tensors without a shape: {', '.join(bare)}"


@pytest.mark.parametrize(
    "path",
    [p for p in FILES if str(p.relative_to(ROOT)).startswith(WITH_SOURCE)],
    ids=lambda path: str(path.relative_to(ROOT)),
)
def test_functions_with_a_formula_say_where_it_comes_from(path):
    without = [name for name, node, owner in _public(path) if "Source:" not in (ast.get_docstring(node) or "") + owner]
    assert not without, without


def _hints(node):
    hints = [argument.annotation for argument in (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs)]
    return [hint for hint in (*hints, node.returns) if hint is not None]


def _is_bare(hint):
    """Whether a tensor stands outside of Float[...], Bool[...], Int[...]; dicts, columns and callables may hold bare
    ones.
    """
    if isinstance(hint, ast.Subscript) and ast.unparse(hint.value) in (
        *JAXTYPING,
        "dict",
        "Mapping",
        "Callable",
        "list",
    ):
        return False
    if isinstance(hint, ast.Name):
        return hint.id == "Tensor"
    if isinstance(hint, ast.Attribute):
        return ast.unparse(hint) == "torch.Tensor"
    return any(_is_bare(child) for child in ast.iter_child_nodes(hint))
