"""The Hugging Face hub: fetching a model directory, and the card that is written with one."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCard, ModelCardData, hf_hub_download

from supervit.complexity import Complexity, grid_text
from supervit.config import SuperViTConfig
from supervit.errors import InputError, reason_of
from supervit.macs import executed_macs, macs
from supervit.storage import CONFIG_FILE, WEIGHTS_FILE

LIBRARY = "supervit"
TASK = "image-classification"

_CARD = """---
{metadata}
---

# {title}

One vision transformer ({family}, width {config.embed_dim}, {config.depth} blocks, {config.num_heads} heads, {classes})
that runs at any of these operating points with the same weights: `14@0.7` is a 14x14 grid of patches of which each drop block
keeps 70 %.

{table}

It takes images of {config.in_chans} channels and {image_size} pixels a side. MACs are per image, in the usual count
and as executed. {known}

## Use

```python
from supervit import Predictor, SuperViT

model = SuperViT.from_pretrained("{repository}")  # or a directory
print(Predictor(model, "{point}")(["cat.jpg"]))
```

```sh
pip install supervit
supervit predict DIRECTORY cat.jpg --point {point}
supervit evaluate DIRECTORY --data.root DATA
```
"""


def fetch(name: str, **options: Any) -> Path:
    """The directory of a hub repository's weights and config, downloaded if need be.

    Args:
        name: Repository, such as someone/model.
        options: As everywhere in `huggingface_hub`.

    Raises:
        InputError: no such repository, or it is not to be had.
    """
    directory = Path()
    try:
        for file in (WEIGHTS_FILE, CONFIG_FILE):
            directory = Path(hf_hub_download(name, file, **options)).parent
    except (ValueError, OSError) as error:
        raise InputError(f"{name!r} is neither a directory nor a hub repository to be had ({reason_of(error)})") from error
    return directory


def model_card(
    config: SuperViTConfig, accuracies: Mapping[Complexity | str, Any] | None = None, repository: str = "OWNER/MODEL"
) -> ModelCard:
    """The card of a model: what it is, its operating points with cost and accuracy, and how to use it.

    Args:
        config: Of the model.
        accuracies: Top-1 by operating point where it is known: what `supervit.evaluate.evaluate` gives, or percent.
        repository: Its name on the hub, for the example.
    """
    top1 = {Complexity.of(point): float(getattr(value, "top1", value)) for point, value in (accuracies or {}).items()}
    points = list(config.space) + [point for point in top1 if point not in set(config.space)]
    rows = [["operating point", "GMACs", "executed GMACs", "top-1 %"], ["---:"] * 4]
    for point in points:
        costs = [f"{count(config, point) / 1e9:.3f}" for count in (macs, executed_macs)]
        rows.append([f"`{point}`", *costs, f"{top1[point]:.2f}" if point in top1 else ""])
    columns = slice(None if top1 else 3)
    metadata = ModelCardData(library_name=LIBRARY, pipeline_tag=TASK, tags=[TASK, LIBRARY, "vision-transformer", config.family])
    text = _CARD.format(
        metadata=metadata.to_yaml(),
        title=repository.rpartition("/")[2] if repository != "OWNER/MODEL" else f"SuperViT {config.family}",
        family={"deit": "DeiT", "lvvit": "LV-ViT"}.get(config.family, config.family),
        config=config,
        image_size=grid_text(config.image_size),
        classes=f"{config.num_classes} classes" if config.num_classes else "no classifier",
        table="\n".join(f"| {' | '.join(row[columns])} |" for row in rows),
        known="" if top1 else "Accuracy was not measured when this card was written.",
        repository=repository,
        point=points[len(points) // 2],
    )
    return ModelCard(text)
