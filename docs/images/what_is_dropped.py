"""Draw the picture of the README: what operating points drop of scikit-learn's two sample photographs.

    python docs/images/what_is_dropped.py WEIGHTS --mean 0.5 0.5 0.5 --std 0.5 0.5 0.5

WEIGHTS is any ViT trained on ImageNet-1k that `supervit.load` takes. The committed picture was made with the AugReg ViT-Tiny/16
(Steiner et al., 2021), whose mean and std are 0.5, just as it is: never trained with smaller grids or dropped tokens.
"""

import argparse
from pathlib import Path

import torch
from PIL import Image
from sklearn.datasets import load_sample_images
from timm.data import ImageNetInfo

import supervit
from supervit import Predictor
from supervit.files import whole_file
from supervit.pictures.dropped import default_points, draw_dropped, look

WIDTH = 1300  # pixels


def main() -> None:
    """Write the picture, by default what_is_dropped.png beside this file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("weights")
    parser.add_argument("--mean", type=float, nargs=3, default=(0.485, 0.456, 0.406))
    parser.add_argument("--std", type=float, nargs=3, default=(0.229, 0.224, 0.225))
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".png"))
    options = parser.parse_args()
    info = ImageNetInfo("imagenet-1k")
    names = tuple(info.index_to_description(index).split(",")[0] for index in range(info.num_classes()))
    model = supervit.load(options.weights, mean=tuple(options.mean), std=tuple(options.std), class_names=names)
    predictor, photographs = Predictor(model), load_sample_images()
    pixels = torch.stack([predictor.pixels(image) for image in photographs.images])
    rows = look(predictor.runtime, pixels, default_points(model.config))
    draw_dropped(rows, [Path(name).name for name in photographs.filenames], model.config.depth, [options.out])
    with Image.open(options.out) as drawn:
        small = drawn.convert("RGB").resize((WIDTH, WIDTH * drawn.height // drawn.width), Image.Resampling.LANCZOS)
    with whole_file(options.out) as temporary:
        small.quantize(256, dither=Image.Dither.FLOYDSTEINBERG).save(temporary, "png", optimize=True)


if __name__ == "__main__":
    main()
