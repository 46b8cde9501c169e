"""Numbers of threads and evaluation mode, which belong to the process or the model, with callers in many threads."""

import re
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from supervit import SuperViT
from supervit.modes import evaluation_mode
from supervit.runtimes import _threads, as_runtime, on_one_thread
from tests.conftest import small_config, trained_like


@pytest.fixture
def two_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def in_new_thread(call):
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(call).result()


def test_what_runs_on_one_thread_leaves_old_and_new_threads_as_they_were(two_threads):
    seen, old, go_on = [], [], threading.Event()

    def stay():
        first = torch.get_num_threads()
        go_on.wait(30)
        old.append((first, torch.get_num_threads()))

    staying = threading.Thread(target=stay)
    staying.start()
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: on_one_thread(lambda: time.sleep(0.01)), range(32)))  # starts those that run on one
        for number in pool.map(lambda _: (on_one_thread(torch.get_num_threads), torch.get_num_threads()), range(200)):
            assert number == (1, 2)
            if len(seen) < 40:
                seen.append(in_new_thread(torch.get_num_threads))  # started while others are inside
    go_on.set()
    staying.join()
    assert seen == [2] * 40
    assert old == [(2, 2)]
    assert torch.get_num_threads() == in_new_thread(torch.get_num_threads) == 2


def test_threads_that_start_on_one_never_touch_the_number_of_the_process(two_threads, monkeypatch):
    monkeypatch.setattr(_threads, "_POOL", [_threads._new_pool()])
    monkeypatch.setattr(torch, "set_num_threads", lambda number: pytest.fail("others would keep it for ever"))
    said = on_one_thread(torch.__config__.parallel_info)
    numbers = re.findall(r"(?:omp|mkl)_get_max_threads\(\) : (\d+)", said)
    assert set(numbers) == {"1"}, said
    assert torch.get_num_threads() == in_new_thread(torch.get_num_threads) == 2


def test_what_fails_on_one_thread_fails_here_and_can_be_nested(two_threads):
    with pytest.raises(ZeroDivisionError):
        on_one_thread(lambda: 1 // 0)
    assert on_one_thread(lambda: on_one_thread(lambda: 3)) == 3


def test_a_model_in_training_mode_answers_many_threads_in_evaluation_mode_and_stays_in_its_own():
    model = trained_like(SuperViT(small_config(drop_path_rate=0.5))).eval()
    images = torch.randn(2, 3, 28, 28)
    expected = as_runtime(model).logits(images, "7@0.5")
    model.train()
    model.blocks[2].eval()  # as somebody left it
    runtime = as_runtime(model)
    with ThreadPoolExecutor(8) as pool:
        for logits in pool.map(lambda _: runtime.logits(images, "7@0.5"), range(64)):
            torch.testing.assert_close(logits, expected)
    assert model.training
    assert model.blocks[3].training
    assert not model.blocks[2].training


def test_the_last_to_leave_evaluation_mode_restores_what_the_first_found():
    model = SuperViT(small_config()).train()
    first, second = evaluation_mode(model), evaluation_mode(model)
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    assert not model.training
    second.__exit__(None, None, None)
    assert model.training
