import pytest

from supervit.complexity import Complexity, ComplexitySpace, sample_paths
from supervit.errors import InputError
from supervit.plan import Plan, Selection, grow_tree

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
    assert [block.reduces for block in blocks] == [i in (3, 6, 9) and "@" in text for i in range(12)]


@pytest.mark.parametrize(
    "text, expected",
    [
        ("14", (14, 1.0, None)),
        ("14@0.7", (14, 0.7, None)),
        (" 8@.5 ", (8, 0.5, None)),
        ("14@1.0", (14, 1.0, None)),
        ("3@1e-3", (3, 0.001, None)),
        ("14@0.7/9", (14, 0.7, 9)),
        ("14/9", (14, 1.0, 9)),
        ("14@0.9-0.7-0.5", (14, (0.9, 0.7, 0.5), None)),
        ("14@0.9-1e-3-.5/11", (14, (0.9, 0.001, 0.5), 11)),
        ("14@1-1-1", (14, 1.0, None)),
        ("14@0.7-0.7-0.7", (14, 0.7, None)),
        ("12x16@0.7", ((12, 16), 0.7, None)),
        ("14x14", (14, 1.0, None)),
    ],
)
def test_complexity_text_parses(text, expected):
    point = Complexity.of(text)
    assert (point.grid_size, point.keep_rate, point.exit_block) == expected
    assert Complexity.of(point) is point


def test_complexity_is_written_in_its_shortest_form():
    values = [(14, 1), (14, 0.7), (8, 0.5), ((14, 14), (0.7, 0.7)), ((12, 16), 1, 9), (14, (0.9, 1), 11)]
    assert [str(Complexity(*p)) for p in values] == ["14", "14@0.7", "8@0.5", "14@0.7", "12x16/9", "14@0.9-1.0/11"]


BAD_TEXTS = [
    "",
    "x",
    "14@",
    "@0.5",
    "14@0.5@2",
    "14x",
    "x14",
    "-8",
    "14@-0.5",
    "1_4",
    "14@nan",
    "14/",
    "14@0.7-",
    "14/-1",
    None,
    14,
]


@pytest.mark.parametrize("text", BAD_TEXTS)
def test_complexity_text_that_does_not_parse_is_refused(text):
    with pytest.raises(InputError, match="does not parse; write GRID, GRID@RATE or GRID@RATE/EXIT, such as"):
        Complexity.of(text)


@pytest.mark.parametrize("exit_block", [0, 2.0, True, "9"])
def test_an_exit_that_is_no_count_of_blocks_is_refused(exit_block):
    with pytest.raises(InputError, match="is not usable; use the number of blocks to run"):
        Complexity(14, 1.0, exit_block)


@pytest.mark.parametrize(
    "text, message",
    [
        ("14/12", "'14/12' stops after 12 of 12 blocks; use fewer, or leave '/12' out"),
        ("14/99", "stops after 99 of 12 blocks"),
        ("14@0.7/3", "stops before a block drops tokens; write '14/3'"),
        ("14@0.9-0.7", "has 2 keep rates for 3 drop blocks that are reached"),
        ("14@0.9-0.7-0.5/9", "has 3 keep rates for 2 drop blocks that are reached"),
    ],
)
def test_a_second_name_for_a_point_of_the_network_is_refused(text, message):
    with pytest.raises(InputError, match=message):
        Plan.resolve(Complexity.of(text), 12, (3, 6, 9))


def test_a_point_can_name_a_file():
    assert [Complexity.of(text).file_name for text in ("14@0.7", "12x16@0.9-0.7-0.5/9")] == [
        "14@0.7",
        "12x16@0.9-0.7-0.5_exit9",
    ]


def test_points_are_ordered_by_patches_then_rates_then_exit():
    texts = ["8", "14@0.5", "8@0.5", "12x16", "14", "14/9", "14@0.5/9", "14@0.5-0.7-0.9"]
    ordered = ["8@0.5", "8", "12x16", "14@0.5/9", "14@0.5", "14@0.5-0.7-0.9", "14/9", "14"]
    assert [str(point) for point in sorted(map(Complexity.of, texts))] == ordered


def test_rates_of_drop_blocks_drop_one_after_the_other():
    blocks = Plan.resolve(Complexity.of("14@0.9-0.7-0.5"), 12, (3, 6, 9)).blocks
    assert [blocks[i].tokens_kept for i in (3, 6, 9)] == [179, 127, 65]
    first = Plan.resolve(Complexity.of("14@0.9-1.0-1.0"), 12, (3, 6, 9)).blocks
    assert [first[i].tokens_kept for i in (3, 6, 9)] == [179, 179, 179]
    assert [block.reduces for block in first] == [index == 3 for index in range(12)]


def test_an_exit_ends_the_plan_and_reads_what_the_head_reads():
    blocks = Plan.resolve(Complexity.of("14@0.7/9"), 12, (3, 6, 9), rows_read=1).blocks
    assert len(blocks) == 9
    assert [block.tokens_out for block in blocks[-2:]] == [99, 1]


@pytest.mark.parametrize("rate", ["0", "1.5", "0.0"])
def test_keep_rate_outside_its_range_is_refused(rate):
    with pytest.raises(InputError, match=r"keep rate .* is not in \(0, 1\]"):
        Complexity.of(f"14@{rate}")


@pytest.mark.parametrize("grid", [1, 0, 2.0, True])
def test_grid_size_that_is_no_side_is_refused(grid):
    with pytest.raises(InputError, match="grid size"):
        Complexity(grid)


def test_a_menu_of_exits_and_lists_of_rates_names_each_point_once():
    space = ComplexitySpace((8, (6, 8)), (1.0, (0.9, 0.5, 0.5), 0.7), (9, 3), (3, 6, 9))
    expected = ["6x8@0.7/9", "6x8@0.7", "6x8@0.9-0.5/9", "6x8@0.9-0.5-0.5", "6x8/3", "6x8/9", "6x8"]
    assert [str(point) for point in space] == [*expected, *(text.replace("6x8", "8") for text in expected)]
    assert len(space) == 14
    assert [str(point) for point in space.cuts(8)] == [text.replace("6x8", "8") for text in expected[:-1]]


def test_exits_are_drawn_like_keep_rates():
    space = ComplexitySpace((4, 7), (0.5, 1.0), (6,), (3,))
    drawn = {str(point) for step in range(200) for point in sample_paths(space, 0, step)}
    assert drawn == {"4", "7", "4@0.5", "7@0.5", "4/6", "7/6", "4@0.5/6", "7@0.5/6"}


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
    roots = grow_tree([Plan.resolve(point, 12, (3, 6, 9), rows_read=1) for point in points])
    assert [root.grid_size for root in roots] == [14, 8]
    shared = roots[0].steps
    assert [(s.block, s.tokens_in, s.tokens_out) for s in shared] == [
        (0, 197, 197),
        (1, 197, 197),
        (2, 197, 197),
        (3, 197, 197),
    ]
    assert shared[-1].tokens_ranked == 139  # one ranking serves both keep rates
    assert [kept for kept, _ in roots[0].children] == [None, 100, 139]
    uncut = roots[0].children[0][1]
    assert uncut.paths == (0,)
    assert [step.block for step in uncut.steps] == list(range(4, 12))
    assert uncut.steps[-1].tokens_out == 1  # the class token alone is read
    halved = roots[0].children[1][1]
    while halved.children:
        ((_, halved),) = halved.children
    assert halved.paths == (1, 4)  # the same point twice is one path


def test_paths_that_exit_leave_the_branch_that_the_others_go_on_in():
    points = [Complexity.of(text) for text in ("14/2", "14", "14@0.5/5", "14@0.5")]
    (root,) = grow_tree([Plan.resolve(point, 12, (3, 6, 9), rows_read=1) for point in points])
    assert (root.paths, [step.block for step in root.steps], root.reduces) == ((0,), [0, 1], False)
    assert root.steps[-1].tokens_out == 197  # for those that go on
    ((_, rest),) = root.children
    assert [step.block for step in rest.steps] == [2, 3]
    halved = dict(rest.children)[100]
    assert (halved.paths, [step.block for step in halved.steps]) == ((2,), [4])


class AtInput(Selection):
    at_input = True


class Merging(Selection):
    reads_all_rows = True


def test_a_reducer_at_the_input_parts_the_paths_before_the_block():
    points = [Complexity.of(text) for text in ("14", "14@0.5")]
    (root,) = grow_tree([Plan.resolve(point, 12, (3,), reduction=AtInput()) for point in points])
    assert [(step.block, step.tokens_ranked, step.tokens_out) for step in root.steps[-2:]] == [(2, 0, 197), (3, 100, 0)]
    children = dict(root.children)
    assert [children[kept].steps[0].tokens_in for kept in (None, 100)] == [197, 100]
    assert {child.steps[0].block for child in children.values()} == {3}


def test_a_reducer_that_reads_all_rows_computes_them_and_an_ffn_for_each_path():
    points = [Complexity.of(text) for text in ("14", "14@0.5", "14@0.7")]
    (root,) = grow_tree([Plan.resolve(point, 12, (3,), rows_read=1, reduction=Merging()) for point in points])
    assert (root.steps[-1].tokens_out, root.steps[-1].ffn_rows) == (197, 197 + 100 + 139)


def test_every_step_of_a_tree_is_told():
    points = [Complexity.of(text) for text in ("14", "14@0.5", "14/2")]
    (root,) = grow_tree([Plan.resolve(point, 4, (2,)) for point in points])
    assert [step.block for step in root.every_step()] == [0, 1, 2, 3, 3]
