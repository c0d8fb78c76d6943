"""Ten captioned pictures of a subject that no model has seen, to fine-tune on.

    python benchmarks/subject.py OUT [--word zorbi]

The subject is a teal creature with one eye, a yellow antenna and an orange belly, drawn here from
ellipses and lines: looking about, waving, small and large. OUT gets PNG files and metadata.jsonl.
"""

import argparse
import json
import math
from pathlib import Path

from PIL import Image, ImageDraw

SIDE, SUPERSAMPLING = 64, 8
BODY, BELLY, BULB, LINE = (23, 168, 160), (250, 150, 60), (255, 214, 60), (20, 60, 72)

# size, tilt of the antenna, gaze (x, y), left and right arm (radians above the horizontal), caption
POSES = (
    (1.00, 0.0, (0.0, 0.0), (-0.5, -0.5), "{word}"),
    (1.00, 0.4, (0.4, 0.0), (-0.5, 0.9), "{word} waving"),
    (1.00, -0.4, (-0.4, 0.0), (0.9, -0.5), "{word} waving"),
    (0.70, 0.2, (0.0, 0.4), (-0.5, -0.5), "small {word}"),
    (0.75, -0.2, (0.0, -0.4), (-0.2, -0.2), "small {word}"),
    (1.10, 0.3, (0.3, -0.3), (0.9, 0.9), "happy {word}"),
    (1.05, -0.3, (-0.3, -0.3), (0.7, 0.7), "happy {word}"),
    (0.90, 0.1, (0.4, 0.4), (-0.8, -0.8), "{word}"),
    (0.95, -0.1, (-0.4, 0.4), (-0.8, -0.2), "{word}"),
    (1.00, 0.5, (0.0, -0.2), (0.2, 0.2), "{word}"),
)


def draw(
    size: float, tilt: float, gaze: tuple[float, float], arms: tuple[float, float]
) -> Image.Image:
    """The subject on white, in shares of half the picture's side about its middle."""
    side = SIDE * SUPERSAMPLING
    picture = Image.new("RGB", (side, side), "white")
    pen, unit, (cx, cy) = ImageDraw.Draw(picture), side / 2 * size, (side / 2, side * 0.56)

    def at(x: float, y: float) -> tuple[float, float]:
        return cx + unit * x, cy + unit * y

    def ellipse(x: float, y: float, wide: float, high: float, colour: object) -> None:
        pen.ellipse((*at(x - wide, y - high), *at(x + wide, y + high)), fill=colour)

    def line(*points: tuple[float, float], thick: float) -> None:
        pen.line([at(*point) for point in points], fill=LINE, width=round(unit * thick))

    bulb = (0.42 * math.sin(tilt), -0.55 - 0.3 * math.cos(tilt))
    line((0.0, -0.5), bulb, thick=0.06)
    ellipse(*bulb, 0.11, 0.11, BULB)
    for sign, lift in zip((-1, 1), arms, strict=True):
        hand = sign * (0.5 + 0.3 * math.cos(lift)), -0.3 * math.sin(lift)
        line((sign * 0.45, 0.0), hand, thick=0.09)
        ellipse(*hand, 0.09, 0.09, BODY)
        ellipse(sign * 0.25, 0.66, 0.17, 0.1, LINE)
    ellipse(0.0, 0.05, 0.56, 0.62, BODY)
    ellipse(0.0, 0.33, 0.32, 0.28, BELLY)
    ellipse(0.0, -0.18, 0.27, 0.27, "white")
    ellipse(0.13 * gaze[0], -0.18 + 0.13 * gaze[1], 0.13, 0.13, LINE)
    return picture.resize((SIDE, SIDE), Image.Resampling.BOX)


def main() -> None:
    """Write the pictures and their captions."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--word", default="zorbi", help="what captions call the subject")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    lines = []
    for number, (*pose, caption) in enumerate(POSES):
        name = f"{number}.png"
        draw(*pose).save(args.out / name)
        lines.append(json.dumps({"file_name": name, "text": caption.format(word=args.word)}))
    (args.out / "metadata.jsonl").write_text("\n".join(lines) + "\n")
    print(f"wrote {len(POSES)} pictures to {args.out}")


if __name__ == "__main__":
    main()
