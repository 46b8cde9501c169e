"""What an operating point costs in multiply-accumulates (MACs, which the paper prints as FLOPs), from integers alone.

Counted are the matrix products: convolutions, linear layers, attention. Not counted, as everywhere in the field:
biases, norms, softmax, activations, resizing.
"""

from collections.abc import Iterator, Sequence

from supervit.backbones import load_family
from supervit.complexity import Branch, Complexity, Step, grow_tree
from supervit.config import SuperViTConfig


def macs(config: SuperViTConfig, complexity: Complexity | str) -> int:
    """MACs per image in the paper's convention, comparable with its Table 1.

        stem + sum over blocks [4 a D^2 + 2 a^2 D + 2 m b D^2] + head

    with a the tokens into a block and b the tokens into its FFN (class token included), D the width, m the MLP ratio.
    It is what the plain form executes (`exact_savings=False`).
    """
    point, dim = Complexity.of(complexity), config.embed_dim
    blocks = config.replace(exact_savings=False).plan(point).blocks
    total = _stem_macs(config, point.grid_size) + _head_macs(config, blocks[-1].tokens_out)
    for block in blocks:
        attention = 4 * block.tokens_in * dim**2 + 2 * block.tokens_in**2 * dim
        total += attention + 2 * block.tokens_out * dim * config.hidden_dim
    return total


def executed_macs(config: SuperViTConfig, complexities: Complexity | str | Sequence[Complexity | str]) -> int:
    """MACs per image that really run: for one operating point, or for several through `forward_paths`.

    With the exact savings, rows that nobody reads are not computed, the class attention of a drop block is, and what
    several paths share counts once. In the plain form (`exact_savings=False`) one operating point executes `macs`.
    """
    several = [complexities] if isinstance(complexities, Complexity | str) else complexities
    plans = [config.plan(complexity) for complexity in several]
    total = 0
    for root in grow_tree(plans):
        total += _stem_macs(config, root.grid_size) + sum(_step_macs(config, step) for step in _steps(root))
    return total + sum(_head_macs(config, plan.blocks[-1].tokens_out) for plan in plans)


def resumed_macs(config: SuperViTConfig, complexity: Complexity | str) -> int:
    """MACs per image of `SuperViT.resume`: `executed_macs` without the prefix that the grid's operating points share."""
    point = Complexity.of(complexity)
    (root,) = grow_tree([config.plan(point)])
    shared = sum(_step_macs(config, step) for step in root.steps[: config.shared_blocks])
    return executed_macs(config, point) - _stem_macs(config, point.grid_size) - shared


def _steps(branch: Branch) -> Iterator[Step]:
    yield from branch.steps
    for _, child in branch.children:
        yield from _steps(child)


def _step_macs(config: SuperViTConfig, step: Step) -> int:
    dim, tokens, rows = config.embed_dim, step.tokens_in, step.tokens_out
    ffn = 2 * rows * dim * config.hidden_dim
    if not config.exact_savings:
        return 4 * tokens * dim**2 + 2 * tokens**2 * dim + ffn
    # The class token's query is computed ahead of the ranking, and again among the survivors' queries.
    queries = rows + (1 if 1 < rows < tokens else 0)
    projections = (2 * tokens + queries + rows) * dim**2
    ranking = tokens * dim if step.tokens_ranked else 0
    return projections + 2 * rows * tokens * dim + ranking + ffn


def _stem_macs(config: SuperViTConfig, grid_size: int) -> int:
    return int(load_family(config.family).patch_embed_macs(config, grid_size))


def _head_macs(config: SuperViTConfig, tokens: int) -> int:
    patches_read = 0 if config.reads_class_token_only else tokens - 1
    return (1 + patches_read) * config.embed_dim * config.num_classes
