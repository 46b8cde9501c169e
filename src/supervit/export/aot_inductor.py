"""AOTInductor: `model.pt2`, compiled code for this kind of CPU; C++ loads it by `torch::inductor::AOTIModelPackageLoader`.

One operating point in a file: the elastic graph's sizes depend on an input, which AOTInductor's C++ does not compile.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from supervit.errors import InputError, reason_of
from supervit.export._graph import Feed, Graph
from supervit.files import write_text
from supervit.options import Precision

PRECISIONS = ("float32",)
IS_STATIC = True
PACKAGES = ()
CASTS = ()
RUNTIME = "aot_inductor"
RUNS_CODE = "it is compiled code"
EXAMPLE = (
    "torch",
    """import torch  # this package is compiled code: load it only if you trust its maker

run = torch._inductor.aoti_load_package(str(here / "model.pt2"))
logits = run(*map(torch.from_numpy, inputs.values()))[0].numpy()""",
)

_FILE = "model.pt2"
_CPP = """// Prints the best class of an image: example model.pt2 IMAGE.f32
// IMAGE.f32: float32 values (1, {channels}, {height}, {width}), normalised as export.json says, channel by channel.
// Load only a model.pt2 whose maker you trust: it is code.
// Compile, all on one line:
//   T=$(python -c 'import torch; print(torch.__path__[0])'); g++ -std=c++20 example.cpp -o example -I$T/include
//   -L$T/lib -Wl,--no-as-needed -ltorch -ltorch_cpu -lc10 -Wl,-rpath,$T/lib
#include <ATen/ATen.h>
#include <fstream>
#include <iostream>
#include <torch/csrc/inductor/aoti_package/model_package_loader.h>

int main(int count, char** arguments) {{
  if (count != 3) return std::cerr << "example model.pt2 IMAGE.f32\\n", 1;
  c10::InferenceMode mode;
  torch::inductor::AOTIModelPackageLoader model(arguments[1]);
  auto images = at::empty({{1, {channels}, {height}, {width}}});
  std::ifstream file(arguments[2], std::ios::binary);
  if (!file.read(static_cast<char*>(images.data_ptr()), images.nbytes()) || file.get() != EOF)
    return std::cerr << arguments[2] << " is no file of " << images.nbytes() << " bytes\\n", 1;
  auto probabilities = model.run({{images}})[0].softmax(1);
  auto [probability, index] = probabilities.max(1);
  std::cout << "class " << index.item<int64_t>() << " " << probability.item<float>() << std::endl;
}}
"""


def write(graph: Graph, directory: Path, calibration: Sequence[Feed], _metadata: Mapping[str, str]) -> None:
    """Write `model.pt2` and `example.cpp`; takes a C++ compiler and half a minute.

    Raises:
        InputError: no compiler that works.
    """
    assert not calibration
    assert not graph.is_elastic
    try:
        torch._inductor.aoti_compile_and_package(graph.program, package_path=str(directory / _FILE))
    except torch._inductor.exc.InductorError as error:
        raise InputError(
            f"AOTInductor cannot compile the model ({reason_of(error)}); install a C++ compiler, such as g++"
        ) from error
    height, width = graph.size(graph.points[0])
    example = _CPP.format(channels=graph.config.in_chans, height=height, width=width)
    write_text(directory / "example.cpp", example)


def read(directory: Path, precision: Precision = "float32", threads: int | None = None) -> Callable[..., Tensor]:
    """The compiled model; `threads` are those of PyTorch in this process."""
    assert precision in PRECISIONS
    if threads:
        torch.set_num_threads(threads)
    run: Callable[..., Tensor] = torch._inductor.aoti_load_package(str(directory / _FILE))
    return run
