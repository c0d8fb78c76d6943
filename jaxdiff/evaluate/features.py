"""Pictures to features: batches stream through a network that lies on every device.

Axis legend: B pictures of a batch, N pictures in all, H W pixels, D numbers in a feature.
"""

import dataclasses
import sys
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Float, Int, UInt8

from jaxdiff import target
from jaxdiff.errors import UserError
from jaxdiff.evaluate.counts import require_samples
from jaxdiff.evaluate.samples import Samples

PER_DEVICE = 32  # pictures at a time


class Texts(NamedTuple):
    """Captions as a network reads them."""

    embeddings: Float[np.ndarray, "C D"]
    """Of all that differ in their tokens: "Cat" and "cat" may be one."""
    own: Int[np.ndarray, " N"]
    """Which of them each caption is."""


@dataclasses.dataclass(frozen=True)
class Extractor:
    """What turns pictures into features."""

    name: str
    """Says which network and which weights; features of different names are not compared."""
    embed: Callable[[Any, jax.Array], jax.Array]
    """(params, uint8 [B H W 3]) -> float32 [B D]; traced anew for each size of picture."""
    params: Any = None
    """Parameters, on the host."""
    texts: Callable[[list[str]], Texts] | None = None
    """Captions to embeddings that the features may be compared with; None: it reads none."""
    mesh: Mesh | None = None
    """Devices, with the axis `data`; None takes all of this process."""

    def width(self, size: tuple[int, int]) -> int:
        """D for pictures of this height and width; nothing is computed."""
        pictures = jax.ShapeDtypeStruct((1, *size, 3), np.uint8)
        return jax.eval_shape(self.embed, self.params, pictures).shape[1]

    def __call__(self, batches: Iterable[UInt8[np.ndarray, "_ _ _ 3"]]) -> np.ndarray:
        """Features [N D] of pictures that come in batches of any length, in their order.

        Raises:
          UserError: no picture comes, or a feature is not finite.
        """
        mesh = self.mesh or Mesh(np.array(jax.local_devices()), ("data",))
        rows = NamedSharding(mesh, PartitionSpec("data"))
        params = jax.device_put(self.params, NamedSharding(mesh, PartitionSpec()))
        embed = jax.jit(self.embed, out_shardings=rows)
        features = []
        for batch in batches:
            for part in _parts(batch, PER_DEVICE * mesh.size):
                padded = np.resize(part, (_padded(len(part), mesh.size), *part.shape[1:]))
                # Products in full float32: a GPU's or TPU's short ones move a distance.
                with target.cut_over(mesh, rows=("data",)), jax.default_matmul_precision("float32"):
                    out = embed(params, jax.device_put(padded, rows))
                features.append(np.asarray(out)[: len(part)])
        require_samples("a measure", 1, pictures=sum(map(len, features)))
        together = np.concatenate(features)
        if not np.isfinite(together).all():
            raise UserError(f"{self.name} gives features that are not finite; check its weights")
        return together


def features_of(samples: Samples, extractor: Extractor) -> Float[np.ndarray, "N D"]:
    """The features of a set, after a line on standard error that says how large it is.

    Raises:
      UserError: a picture is damaged, or a feature is not finite.
    """
    print(f"{samples.name}: {samples.count} pictures", file=sys.stderr, flush=True)
    return extractor(samples.batches())


def _parts(batch: UInt8[np.ndarray, "B H W 3"], most: int) -> list[UInt8[np.ndarray, "_ H W 3"]]:
    return [batch[start : start + most] for start in range(0, len(batch), most)]


def _padded(count: int, devices: int) -> int:
    """A number of rows that the devices divide and that few programs are compiled for."""
    return devices * min(PER_DEVICE, 1 << (-(-count // devices) - 1).bit_length())
