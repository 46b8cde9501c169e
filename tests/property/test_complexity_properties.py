from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from supervit.complexity import Complexity, ComplexitySpace, sample_paths
from supervit.plan import Plan, grow_tree

rates = st.floats(min_value=0, max_value=1, exclude_min=True)
DROP_BLOCKS = (3, 6, 9)
grids = st.integers(2, 64) | st.tuples(st.integers(2, 64), st.integers(2, 64))
exits = st.none() | st.integers(1, 11)
any_points = st.builds(Complexity, grids, rates | st.lists(rates, min_size=1, max_size=4).map(tuple), exits)


@st.composite
def points(draw):
    """Points of a network of 12 blocks."""
    exit_block = draw(exits)
    reached = sum(block < (exit_block or 12) for block in DROP_BLOCKS)
    rate = draw(rates | st.tuples(*[rates] * reached)) if reached else 1.0
    return Complexity(draw(grids), rate, exit_block)


points = points()


@given(any_points)
def test_text_form_round_trips(point):
    assert Complexity.of(str(point)) == point


@given(any_points, any_points)
def test_points_are_equal_where_neither_is_less(one, other):
    assert (one == other) == (not one < other and not other < one)
    assert (one == other) == (str(one) == str(other))


@given(points)
def test_every_drop_keeps_the_class_token_and_a_patch_and_never_adds_tokens(point):
    blocks = Plan.resolve(point, 12, DROP_BLOCKS).blocks
    for block, following in pairwise(blocks):
        assert 2 <= block.tokens_kept <= block.tokens_in
        assert following.tokens_in == block.tokens_kept
    assert blocks[0].tokens_in == point.num_patches + 1


@given(st.integers(2, 40), rates, rates)
def test_a_higher_keep_rate_never_keeps_fewer_tokens(grid, one, other):
    low, high = sorted((one, other))
    kept = [[b.tokens_kept for b in Plan.resolve(Complexity(grid, rate), 12, DROP_BLOCKS).blocks] for rate in (low, high)]
    assert all(a <= b for a, b in zip(*kept, strict=True))


@given(st.lists(points, min_size=1, max_size=8))
def test_tree_has_one_end_per_path_and_rows_for_all_who_need_them(asked):
    plans = [Plan.resolve(point, 12, DROP_BLOCKS, rows_read=1) for point in asked]
    ends, steps = [], 0

    def walk(branch, members):
        nonlocal steps
        steps += len(branch.steps)
        for step in branch.steps:
            for plan in (plan for plan in members if len(plan.blocks) > step.block):
                assert step.tokens_in == plan.blocks[step.block].tokens_in
                assert step.tokens_out >= plan.blocks[step.block].tokens_out
        ends.extend(branch.paths)
        for kept, child in branch.children:
            if not branch.reduces:
                walk(child, members)
                continue
            block = branch.steps[-1].block
            going = [p for p in members if len(p.blocks) > block]
            walk(child, [p for p in going if (p.blocks[block].tokens_kept if p.blocks[block].reduces else None) == kept])

    for root in grow_tree(plans):
        walk(root, [plan for plan in plans if plan.complexity.grid_size == root.grid_size])
    assert sorted(ends) == list(range(len(asked)))
    assert steps <= 12 * len(asked)


@given(st.sets(st.integers(2, 30), min_size=1), st.sets(rates), st.sets(st.integers(1, 11)), st.integers(), st.integers(0))
def test_every_cut_path_comes_with_its_teacher(grids, some_rates, exits, seed, step):
    space = ComplexitySpace(tuple(grids), tuple(some_rates | {1.0}), tuple(exits), DROP_BLOCKS)
    paths = sample_paths(space, seed, step)
    assert set(paths) <= set(space)
    assert all(path.uncut in paths for path in paths)
