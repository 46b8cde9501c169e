import pytest

from supervit.complexity import Complexity, ComplexitySpace, Plan, grow_tree, sample_paths
from supervit.errors import InputError

# Tokens with the class token at the start and after blocks 3, 6 and 9: counts of the released implementation.
RELEASED_COUNTS = {
    "8@0.5": (65, 34, 18, 10),
    "8@0.7": (65, 47, 34, 25),
    "10@0.5": (101, 52, 27, 15),
    "10@0.7": (101, 72, 52, 38),
    "12@0.5": (145, 74, 38, 20),
    "12@0.7": (145, 103, 74, 53),
    "14@0.5": (197, 100, 51, 27),
    "14@0.7": (197, 139, 99, 71),
    "14": (197, 197, 197, 197),
}


@pytest.mark.parametrize("text", RELEASED_COUNTS)
def test_token_counts_are_the_released_ones(text):
    blocks = Plan.resolve(Complexity.of(text), depth=12, drop_blocks=(3, 6, 9)).blocks
    assert (blocks[0].tokens_in, *(blocks[i].tokens_kept for i in (3, 6, 9))) == RELEASED_COUNTS[text]
    assert [block.drops for block in blocks] == [i in (3, 6, 9) and "@" in text for i in range(12)]


@pytest.mark.parametrize(
    "text, expected",
    [("14", (14, 1.0)), ("14@0.7", (14, 0.7)), (" 8@.5 ", (8, 0.5)), ("14@1.0", (14, 1.0)), ("3@1e-3", (3, 0.001))],
)
def test_complexity_text_parses(text, expected):
    point = Complexity.of(text)
    assert (point.grid_size, point.keep_rate) == expected
    assert Complexity.of(point) is point


def test_complexity_is_written_in_its_shortest_form():
    assert [str(Complexity(*p)) for p in [(14, 1), (14, 0.7), (8, 0.5)]] == ["14", "14@0.7", "8@0.5"]


@pytest.mark.parametrize("text", ["", "x", "14@", "@0.5", "14@0.5@2", "14x14", "-8", "14@-0.5", "1_4", "14@nan", None, 14])
def test_complexity_text_that_does_not_parse_is_refused(text):
    with pytest.raises(InputError, match="does not parse; write GRID or GRID@RATE"):
        Complexity.of(text)


@pytest.mark.parametrize("rate", ["0", "1.5", "0.0"])
def test_keep_rate_outside_its_range_is_refused(rate):
    with pytest.raises(InputError, match=r"keep rate .* is not in \(0, 1\]"):
        Complexity.of(f"14@{rate}")


@pytest.mark.parametrize("grid", [1, 0, 2.0, True])
def test_grid_size_that_is_no_side_is_refused(grid):
    with pytest.raises(InputError, match="grid size"):
        Complexity(grid)


def test_space_lists_its_points_in_table_order():
    space = ComplexitySpace((14, 8), (1.0, 0.5))
    assert [str(point) for point in space] == ["8@0.5", "8", "14@0.5", "14"]
    assert len(space) == 4
    assert str(space.largest) == "14"


@pytest.mark.parametrize(
    "values", [{"grid_sizes": ()}, {"grid_sizes": (8, 8)}, {"keep_rates": (0.5, 0.7)}, {"keep_rates": (0, 1)}]
)
def test_space_that_cannot_be_trained_is_refused(values):
    with pytest.raises(InputError):
        ComplexitySpace(**values)


def test_four_paths_are_those_of_the_paper():
    space = ComplexitySpace()
    drawn = [sample_paths(space, seed=3, step=step) for step in range(300)]
    for largest, largest_cut, smaller, smaller_cut in drawn:
        assert largest == space.largest
        assert largest_cut.uncut == largest
        assert smaller.is_uncut
        assert smaller.grid_size < 14
        assert smaller_cut.uncut == smaller
        assert not largest_cut.is_uncut
        assert not smaller_cut.is_uncut
    assert {point for paths in drawn for point in paths} == set(space)


def test_paths_are_a_pure_function_of_seed_and_step():
    space = ComplexitySpace()
    assert sample_paths(space, 0, 7) == sample_paths(space, 0, 7)
    assert [sample_paths(space, 0, step) for step in range(20)] != [sample_paths(space, 1, step) for step in range(20)]


def test_paths_of_a_smaller_space_are_what_it_has():
    assert [str(p) for p in sample_paths(ComplexitySpace((14,), (1.0,)), 0, 0)] == ["14"]
    assert [str(p) for p in sample_paths(ComplexitySpace((8, 14), (1.0,)), 0, 0)] == ["14", "8"]
    assert [str(p) for p in sample_paths(ComplexitySpace((14,), (0.5, 1.0)), 0, 0)] == ["14", "14@0.5"]


def test_tree_runs_shared_blocks_once():
    points = [Complexity.of(text) for text in ("14", "14@0.5", "8@0.7", "14@0.7", "14@0.5")]
    roots = grow_tree([Plan.resolve(point, 12, (3, 6, 9), class_token_only=True) for point in points])
    assert [root.grid_size for root in roots] == [14, 8]
    shared = roots[0].steps
    assert [(s.block, s.tokens_in, s.tokens_out) for s in shared] == [
        (0, 197, 197),
        (1, 197, 197),
        (2, 197, 197),
        (3, 197, 197),
    ]
    assert shared[-1].tokens_ranked == 139  # one ranking serves both keep rates
    assert [kept for kept, _ in roots[0].children] == [197, 100, 139]
    uncut = roots[0].children[0][1]
    assert uncut.paths == (0,)
    assert [step.block for step in uncut.steps] == list(range(4, 12))
    assert uncut.steps[-1].tokens_out == 1  # the class token alone is read
    halved = roots[0].children[1][1]
    while halved.children:
        ((_, halved),) = halved.children
    assert halved.paths == (1, 4)  # the same point twice is one path
