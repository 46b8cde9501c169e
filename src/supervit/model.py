"""SuperViT: one vision transformer with many operating points that share all weights."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCard, ModelHubMixin
from torch import Tensor, nn

from supervit.backbones import config_from_dict, variant_config
from supervit.complexity import sides
from supervit.config import SuperViTConfig
from supervit.errors import InputError
from supervit.files import refusing
from supervit.hub import LIBRARY, TASK, fetch, model_card
from supervit.network import AnyComplexity, Network
from supervit.storage import CONFIG_FILE, WEIGHTS_FILE, filled, fingerprint, of_run, override, read_config, write_model
from supervit.weights import read_safetensors


class SuperViT(Network, ModelHubMixin, library_name=LIBRARY, tags=[TASK]):
    """A vision transformer that runs at any operating point: the network, what users of timm expect of it, and files.

    Example:
        >>> model = create_model("deit_small").eval()
        >>> logits = model(images, "14@0.7")

    Args:
        config: What the model is made of; `create_model` builds it from a name.
    """

    # --- what users of timm expect --------------------------------------------------------------------------------

    def forward_features(self, images: Tensor, complexity: AnyComplexity | None = None) -> Tensor:
        """Normalised tokens (B, prefix + survivors, D), class token first. Arguments as in `forward`."""
        (encoded,) = self.encode(images, [complexity], all_tokens=True)
        return encoded.tokens

    def get_classifier(self) -> nn.Module:
        """The classifier of the class token: a linear layer, or the identity without classes."""
        return self.head

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Replace the classifier by a new one for `num_classes` classes (0: none), initialised as at the start.

        Args:
            num_classes: Classes; 0 makes the model return the class token.
            global_pool: Must be None or what the model has: its family says where the classifier reads from.
        """
        check_global_pool(global_pool, self.global_pool)
        self.config = self.config.replace(num_classes=num_classes, class_names=())
        self._make_classifiers()

    def no_weight_decay(self) -> set[str]:
        """Parameters that timm's optimizers should not decay, besides biases and norms."""
        tables = {f"pos_embeds.{name}" for name in self.pos_embeds}
        return tables | {name for name in ("cls_token", "reg_token") if hasattr(self, name)}

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Recompute the blocks in the backward pass instead of keeping their activations."""
        self.grad_checkpointing = enable

    @property
    def global_pool(self) -> str:
        """Where the classifier reads from: `token` or `avg`."""
        return self.config.global_pool

    @property
    def num_classes(self) -> int:
        """Classes; 0 without classifier."""
        return self.config.num_classes

    @property
    def num_features(self) -> int:
        """Width of the features before the classifier."""
        return self.config.embed_dim

    embed_dim = head_hidden_size = num_features

    @property
    def default_cfg(self) -> dict[str, Any]:
        """Input size, normalisation and classifier, in timm's format (`timm.data.resolve_model_data_config`)."""
        config = self.config
        first_conv = next(name for name, module in self.named_modules() if isinstance(module, nn.Conv2d))
        return {
            "architecture": f"supervit_{config.family}", "num_classes": config.num_classes,
            "input_size": (config.in_chans, *sides(config.image_size)),
            "mean": config.mean, "std": config.std, "interpolation": config.interpolation, "crop_pct": config.crop_pct,
            "fixed_input_size": False, "pool_size": None, "first_conv": first_conv,
            "classifier": ("head", "aux_head") if config.dense_head else "head",
        }  # fmt: skip

    pretrained_cfg = default_cfg

    # --- files ----------------------------------------------------------------------------------------------------

    def save(self, directory: str | Path) -> None:
        """Write `model.safetensors` and `config.json` into a directory, which is made if need be.

        Raises:
            InputError: the directory cannot be written.
        """
        write_model(Path(directory), self.config.to_dict(), self.state_dict())

    def fingerprint(self) -> str:
        """16 hex digits that name config and weights, whatever the device."""
        return fingerprint(self.config.to_dict(), self.state_dict())

    def _save_pretrained(self, save_directory: Path) -> None:
        self.save(save_directory)

    def generate_model_card(self, *_args: Any, **known: Any) -> ModelCard:
        """The card that `save_pretrained` and `push_to_hub` write: `hub.model_card` with their `model_card_kwargs`."""
        return model_card(self.config, **known)

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | Path,
        *,
        force_download: bool = False,
        token: str | bool | None = None,
        cache_dir: str | Path | None = None,
        local_files_only: bool = False,
        revision: str | None = None,
        **overrides: Any,
    ) -> "SuperViT":
        """The model that `save`, `save_pretrained` or `push_to_hub` wrote, in evaluation mode.

        Args:
            pretrained_model_name_or_path: A directory (also of a run), or a repository of the Hugging Face hub.
            force_download, token, cache_dir, local_files_only, revision: As everywhere in `huggingface_hub`.
            overrides: Fields of the config that differ from the saved ones.

        Raises:
            InputError: files missing, damaged, or not fitting each other.
        """
        directory = of_run(Path(pretrained_model_name_or_path))
        if not directory.is_dir():
            options: dict[str, Any] = {"force_download": force_download, "token": token, "cache_dir": cache_dir}
            options |= {"local_files_only": local_files_only, "revision": revision}
            directory = fetch(str(pretrained_model_name_or_path), **options)
        values = read_config(directory)
        with refusing(f"{str(directory / CONFIG_FILE)!r} cannot be used", "mend it, or convert or download the model again"):
            stored = config_from_dict(values)
        weights = read_safetensors(directory / WEIGHTS_FILE)
        return cls.of_weights(*override(stored, weights, overrides, str(directory)), str(directory))

    @classmethod
    def of_weights(cls, config: SuperViTConfig, state_dict: Mapping[str, Tensor], source: str) -> "SuperViT":
        """The model that weights fill exactly, in evaluation mode. Errors as of `storage.filled`."""
        return filled(lambda: cls(config), state_dict, source, config.depth + len(config.grid_sizes))


def check_global_pool(global_pool: str | None, own: str = "token") -> None:
    """Refuse another pooling than the model has."""
    if global_pool not in (None, own):
        raise InputError(f"global_pool {global_pool!r} is not available; this SuperViT pools {own!r}")


def create_model(name: str, img_size: int | tuple[int, int] | None = None, **overrides: Any) -> SuperViT:
    """A new model with random weights.

    Args:
        name: A variant: `deit_tiny`, `deit_small`, `deit_base`, `lvvit_tiny`, `lvvit_small`, `lvvit_medium`.
        img_size: Image side in pixels, a multiple of the patch size; scales the menu of grid sizes.
        overrides: Fields of `SuperViTConfig` that differ from the variant's, such as `num_classes=10`.

    Raises:
        InputError: unknown variant or field (with the near names), or a value that does not fit.
    """
    return SuperViT(variant_config(name, img_size, **overrides))
