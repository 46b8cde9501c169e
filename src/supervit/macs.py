"""What an operating point costs in multiply-accumulates (MACs, which the paper prints as FLOPs), from integers alone.

Counted are the matrix products: convolutions, linear layers, attention. Not counted, as everywhere in the field:
biases, norms, softmax, activations, resizing.
"""

from collections.abc import Sequence

from supervit.backbones import load_family
from supervit.complexity import Complexity, GridSize
from supervit.config import SuperViTConfig
from supervit.plan import Branch, Step, grow_tree
from supervit.reducers import load_reducer


def macs(config: SuperViTConfig, complexity: Complexity | str) -> int:
    """MACs per image in the paper's convention, comparable with its Table 1: those of the plain form.

        stem + sum over blocks [4 a D^2 + 2 a^2 D + 2 m b D^2] + what the reducer computes + head

    with a the tokens into a block and b the tokens into its FFN (prefix included), D the width, m the MLP ratio.
    """
    return executed_macs(config.replace(exact_savings=False), complexity)


def executed_macs(config: SuperViTConfig, complexities: Complexity | str | Sequence[Complexity | str]) -> int:
    """MACs per image that really run: for one operating point, or for several through `forward_paths`.

    With the exact savings, rows that nobody reads are not computed, the class attention of a drop block is, and what
    several paths share counts once. In the plain form (`exact_savings=False`) one operating point executes `macs`.
    """
    several = [complexities] if isinstance(complexities, Complexity | str) else complexities
    plans = [config.plan(complexity) for complexity in several]
    total = sum(_stem_macs(config, root.grid_size) + _branch_macs(config, root) for root in grow_tree(plans))
    return total + sum(_head_macs(config, plan.blocks[-1].tokens_out) for plan in plans)


def resumed_macs(config: SuperViTConfig, complexity: Complexity | str) -> int:
    """MACs per image of `SuperViT.resume`: `executed_macs` without the prefix that the grid's operating points share."""
    point = Complexity.of(complexity)
    (root,) = grow_tree([config.plan(point)])
    shared = sum(_step_macs(config, step) for step in root.steps[: config.shared_blocks])
    return executed_macs(config, point) - _stem_macs(config, point.grid_size) - shared


def _branch_macs(config: SuperViTConfig, branch: Branch) -> int:
    total = sum(_step_macs(config, step) for step in branch.steps)
    for kept, child in branch.children:
        if kept is not None and branch.reduces:
            total += load_reducer(config.reducer).reduce_macs(config, branch.steps[-1].tokens_in, kept)
        total += _branch_macs(config, child)
    return total


def _step_macs(config: SuperViTConfig, step: Step) -> int:
    reducer, dim, tokens, rows = load_reducer(config.reducer), config.embed_dim, step.tokens_in, step.tokens_out
    ranking = reducer.rank_macs(config, tokens) if step.tokens_ranked else 0
    if not rows:  # a choice at the input
        return ranking
    ffn = 2 * step.ffn_rows * dim * config.hidden_dim
    looks = reducer.probe is not None and (step.tokens_ranked > 0 or (reducer.observes and rows == tokens))
    if not config.exact_savings:
        probing = tokens * dim + dim**2 if looks and reducer.probe != "class_token" else 0
        return 4 * tokens * dim**2 + 2 * tokens**2 * dim + ranking + probing + ffn
    # The first token's query is computed ahead of the ranking, and again among the survivors' queries.
    is_chosen = step.tokens_ranked > 0 and config.num_prefix_tokens < rows < tokens
    queries = rows + is_chosen + (looks and reducer.probe != "class_token")
    projections = (2 * tokens + queries + rows) * dim**2
    if step.tokens_ranked and reducer.reads_attention:
        ranking += tokens**2 * dim + (tokens * dim**2 if rows < tokens else 0)
    return projections + 2 * rows * tokens * dim + (tokens * dim if looks else 0) + ranking + ffn


def _stem_macs(config: SuperViTConfig, grid_size: GridSize) -> int:
    return int(load_family(config.family).patch_embed_macs(config, grid_size))


def _head_macs(config: SuperViTConfig, tokens: int) -> int:
    patches_read = tokens - config.num_prefix_tokens if config.dense_head and config.num_classes else 0
    return (1 + patches_read) * config.embed_dim * config.num_classes
