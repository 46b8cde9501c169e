import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from supervit import SuperViT
from supervit.backbones import variant_config
from supervit.macs import executed_macs, macs, resumed_macs
from tests.conftest import small_config

# GMACs at keep rates 0.5, 0.7, 1 for grid sizes 8, 10, 12, 14, to the three digits of the released models' counts.
RELEASED_GMACS = {
    "deit_small": [0.742, 0.972, 1.438, 1.155, 1.515, 2.268, 1.668, 2.194, 3.315, 2.298, 3.013, 4.599],
    "lvvit_small": [1.115, 1.402, 2.052, 1.737, 2.185, 3.236, 2.500, 3.153, 4.728, 3.432, 4.319, 6.551],
}
# The paper's Table 1, one digit. For LV-ViT-S it prints 2.0 and 3.3 where the released model has 2.05 and 3.24.
TABLE_1 = {
    "deit_small": [0.7, 1.0, 1.4, 1.2, 1.5, 2.3, 1.7, 2.2, 3.3, 2.3, 3.0, 4.6],
    "lvvit_small": [1.1, 1.4, 2.0, 1.7, 2.2, 3.3, 2.5, 3.2, 4.7, 3.4, 4.3, 6.6],
}


def counted_macs(run) -> int:
    """PyTorch's own count; under the math kernel, since the counter does not see fused attention on a CPU."""
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        run()
    return counter.get_total_flops() // 2


@pytest.mark.parametrize("name", RELEASED_GMACS)
def test_costs_are_those_of_the_released_models(name):
    config = variant_config(name)
    assert [round(macs(config, point) / 1e9, 3) for point in config.space] == RELEASED_GMACS[name]


@pytest.mark.parametrize("name, agreeing", [("deit_small", 12), ("lvvit_small", 10)])
def test_costs_are_those_of_table_1(name, agreeing):
    config = variant_config(name)
    found = [round(macs(config, point) / 1e9, 1) for point in config.space]
    assert sum(a == b for a, b in zip(found, TABLE_1[name], strict=True)) == agreeing


@pytest.mark.parametrize("family", ["deit", "lvvit"])
@pytest.mark.parametrize("point", ["7", "7@0.7", "4@0.5", "9@0.3"])
def test_macs_is_what_the_plain_form_executes(family, point):
    config = small_config(family, exact_savings=False)
    model = SuperViT(config).eval()
    images = torch.randn(1, 3, 28, 28)
    assert counted_macs(lambda: model(images, point)) == macs(config, point) == executed_macs(config, point)
    assert macs(config.replace(exact_savings=True), point) == macs(config, point)


@pytest.mark.parametrize("family", ["deit", "lvvit"])
@pytest.mark.parametrize("drop_blocks", [(3, 6, 9), (2, 11)])
@pytest.mark.parametrize("points", [["7"], ["7@0.7"], ["4@0.5"], ["7", "7@0.5", "4", "4@0.7"], ["6@0.5", "6@0.7"], ["7", "7"]])
def test_executed_macs_is_what_the_saving_form_executes(family, drop_blocks, points):
    config = small_config(family, drop_blocks=drop_blocks)
    model = SuperViT(config).eval()
    images = torch.randn(1, 3, 28, 28)
    assert counted_macs(lambda: model.forward_paths(images, points)) == executed_macs(config, points)


def test_the_plain_form_shares_what_paths_have_in_common():
    config = small_config(exact_savings=False)
    model = SuperViT(config).eval()
    points = ["7", "7@0.5"]
    counted = counted_macs(lambda: model.forward_paths(torch.randn(1, 3, 28, 28), points))
    assert counted == executed_macs(config, points) < sum(macs(config, point) for point in points)


def test_savings_at_full_size():
    deit = variant_config("deit_small")
    assert executed_macs(deit, "14") <= 0.94 * macs(deit, "14")
    for name in RELEASED_GMACS:
        config = variant_config(name)
        points = list(config.space)
        assert executed_macs(config, points) <= 0.75 * sum(executed_macs(config, point) for point in points)
        assert all(executed_macs(config, point) <= macs(config, point) for point in points)


def test_without_classes_there_is_no_head():
    config = variant_config("lvvit_tiny")
    assert macs(config, "8") - macs(config.replace(num_classes=0), "8") == 65 * 240 * 1000


@pytest.mark.parametrize("family", ["deit", "lvvit"])
@pytest.mark.parametrize("drop_blocks", [(), (0, 5), (3, 6, 9)])
@pytest.mark.parametrize("point", ["7", "7@0.5"])
def test_resumed_macs_is_what_resuming_executes(family, drop_blocks, point):
    config = small_config(family, drop_blocks=drop_blocks)
    model = SuperViT(config).eval()
    images = torch.randn(1, 3, 28, 28)
    prefix = model.encode_prefix(images, 7)
    assert counted_macs(lambda: model.resume(prefix, point)) == resumed_macs(config, point)
    assert counted_macs(lambda: model.encode_prefix(images, 7)) == executed_macs(config, point) - resumed_macs(config, point)
