"""What passes between `sample.py PROMPT` and its picture, lap by lap, by the real parts.

Nothing is imported before its lap.
"""

import importlib
import tempfile
from pathlib import Path
from typing import Any

from benchmarks import measuring


def stages(what: dict[str, Any], began: float) -> dict[str, Any]:
    """Seconds of each stage; called first in a process of its own.

    Args:
      what: a combination of `sampling`; one picture is drawn.
      began: `time.time()` when the process was asked for.
    """
    laps = measuring.Laps(began)
    laps("start Python")
    import jax

    laps("import jax")
    for part in ("cli", "text_to_image"):  # what the command itself imports
        importlib.import_module(f"jaxdiff.pipelines.{part}")
    from benchmarks.sampling import opened
    from jaxdiff.provenance import write_png

    laps("import jaxdiff")
    place = measuring.place()
    laps("start the devices")
    pipe = opened(what)
    jax.block_until_ready(pipe.params)
    laps("load")
    pipe.engine._draw = staged = measuring.Staged(pipe.engine._draw)
    prompt, changes = what["prompt"], {"num_steps": what["steps"]}
    recipe = pipe.recipe(prompt, 0, **changes)
    pixels = pipe.draw([prompt], [0], **changes).pixels[0]
    drawing = laps("draw")
    with tempfile.TemporaryDirectory() as folder:
        write_png(Path(folder) / "picture.png", pixels, recipe)
    laps("write the PNG")
    seconds, written = laps.seconds, laps.seconds.pop("write the PNG")
    seconds |= {"trace and lower": staged.trace, "compile": staged.compile}
    seconds["draw"] = drawing - staged.trace - staged.compile
    order = [name for name in seconds if name != "draw"]
    seconds = {name: seconds[name] for name in (*order, "draw")} | {"write the PNG": written}
    return {"seconds": seconds, "place": place}
