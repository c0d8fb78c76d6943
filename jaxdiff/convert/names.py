"""Names and layouts: torch's `down_blocks.0.resnets.1.conv1.weight` [O I H W] and ours.

Ours is a path in the parameter tree, `down_blocks_0/resnets_1/conv1/kernel` [H W I O]. Two tables
of patterns say all of it; the layout follows from the leaf's name and the number of axes.

Axis legend: O outputs, I inputs, H W kernel height and width.
"""

import re

import numpy as np

Rules = tuple[tuple[str, str], ...]

# torch key -> our path; applied in order.
TO_OURS: Rules = (
    (r"^text_model\.", ""),  # transformers < 5 has it, later versions do not
    (r"(attentions\.\d+)\.query\.", r"\1.to_q."),  # autoencoders stored before diffusers 0.15
    (r"(attentions\.\d+)\.key\.", r"\1.to_k."),
    (r"(attentions\.\d+)\.value\.", r"\1.to_v."),
    (r"(attentions\.\d+)\.proj_attn\.", r"\1.to_out.0."),
    (r"\.(\d+)(?=\.)", r"_\1"),  # index of a list: resnets.1 -> resnets_1
    (r"(norm\d?|norm_out|layrnorm|LayerNorm|\bbn)\.weight$", r"\1.scale"),
    (
        r"(token_embedding|position_embedding|class_embedding|embeddings\.\w+_embeddings)\.weight$",
        r"\1.embedding",
    ),
    (r"\.weight$", ".kernel"),
    (r"\.", "/"),
)

# our path -> torch key; applied in order.
TO_TORCH: Rules = (
    (r"/(kernel|scale|embedding)$", "/weight"),
    # linear_1 and linear_2 are names, not indices; so are branch3x3_1, branch7x7dbl_2, ...
    (r"(?<!linear)(?<!branch\dx\d)(?<!branch7x7x3)(?<!dbl)_(\d+)(?=/)", r"/\1"),
    (r"/", "."),
)

# Buffers that old checkpoints carry and nothing needs.
IGNORED = (r"(^|\.)position_ids$", r"\.num_batches_tracked$")

# Dense layers here that torch stores as 1x1 convolutions.
UNIT_CONVOLUTIONS = (
    r"(conv_shortcut|quant_conv|controlnet_mid_block|controlnet_down_blocks_\d+)/kernel$"
)
UNIT_PROJECTIONS = r"attentions_\d+/(proj_in|proj_out)/kernel$"  # without use_linear_projection


def our_path(key: str) -> str | None:
    """The path of a torch key in our tree; None for a buffer that is not a parameter.

    >>> our_path("down_blocks.0.resnets.1.conv1.weight")
    'down_blocks_0/resnets_1/conv1/kernel'
    """
    if any(re.search(pattern, key) for pattern in IGNORED):
        return None
    return _apply(TO_OURS, key)


def torch_key(path: str, *, prefix: str = "") -> str:
    """The torch key of a path in our tree, below `prefix` (but for a text projection).

    >>> torch_key("time_embedding/linear_1/kernel")
    'time_embedding.linear_1.weight'
    """
    key = _apply(TO_TORCH, path)
    return key if key.startswith("text_projection") else prefix + key


def our_layout(path: str, array: np.ndarray, axes: int) -> np.ndarray:
    """A torch array in our layout: [O I H W] -> [H W I O], [O I] -> [I O], the rest as it is.

    Args:
      path: its path in our tree.
      array: the torch array.
      axes: how many axes ours has; a 1x1 kernel becomes a matrix where ours is one.
    """
    if not path.endswith("/kernel"):
        return array
    if array.ndim == 4 and axes == 2 and array.shape[2:] == (1, 1):
        array = array[:, :, 0, 0]
    return array.transpose(2, 3, 1, 0) if array.ndim == 4 else array.T


def torch_layout(path: str, array: np.ndarray, *, linear_projection: bool = True) -> np.ndarray:
    """Our array in torch's layout, the inverse of `our_layout`."""
    if not path.endswith("/kernel"):
        return array
    if array.ndim == 4:
        return array.transpose(3, 2, 0, 1)
    unit = re.search(UNIT_CONVOLUTIONS, path) or (
        not linear_projection and re.search(UNIT_PROJECTIONS, path)
    )
    return array.T[:, :, None, None] if unit else array.T


def _apply(rules: Rules, name: str) -> str:
    for pattern, replacement in rules:
        name = re.sub(pattern, replacement, name)
    return name
