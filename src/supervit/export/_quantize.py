"""Post-training quantisation to int8: weights per channel, activations calibrated on images."""

import logging
from collections.abc import Sequence
from typing import Any

from supervit.export._graph import Feed
from supervit.plugins import import_extra


def quantize(model: Any, feeds: Sequence[Feed], exact: Sequence[str]) -> Any:
    """The ONNX or OpenVINO model with int8 matrix products where that loses little (NNCF, with SmoothQuant).

    Args:
        model: An `onnx.ModelProto` or `openvino.Model`.
        feeds: Inputs by name to calibrate on.
        exact: Names of nodes that stay as they are: those that tokens are ranked by.
    """
    nncf = import_extra("nncf", "int8")
    logging.getLogger("nncf").setLevel(logging.ERROR)  # its own set_log_level silences the handlers of the whole program
    ranges = import_extra("nncf.quantization.range_estimator", "int8").RangeEstimatorParametersSet.MINMAX
    # Measured on ViT-Tiny (docs/log.md): both choices together halve the divergence from float32 of NNCF's defaults.
    parameters = nncf.AdvancedQuantizationParameters(
        smooth_quant_alphas=nncf.AdvancedSmoothQuantParameters(matmul=0.75), activations_range_estimator_params=ranges
    )
    return nncf.quantize(
        model,
        nncf.Dataset(list(feeds)),
        model_type=nncf.ModelType.TRANSFORMER,
        subset_size=len(feeds),
        ignored_scope=nncf.IgnoredScope(names=list(exact)) if exact else None,
        advanced_parameters=parameters,
    )
