"""A plan as text."""

from collections import defaultdict

from jaxdiff.planning.chips import GIB
from jaxdiff.planning.plan import Plan

_WIDTH = 26


def render(plan: Plan, name: str) -> str:
    """The table that `train.py --plan` prints.

    Args:
      plan: what it tells.
      name: of the preset.
    """
    chips, memory = plan.topology.count, plan.topology.memory / GIB
    wall, busy = plan.seconds
    axes = " x ".join(f"{axis} {size}" for axis, size in plan.mesh.items())
    rows = [
        (f"{name} on {plan.topology.name}", f"{chips} devices of {memory:.2f} GiB; mesh {axes}"),
        ("batch", f"{plan.run.data.batch_size}, {_micro(plan)}"),
        ("parameters", f"{plan.parameters / 1e6:,.1f} million"),
        *_memory(plan),
        *_work(plan),
        ("planned in", f"{wall:.0f} s, {busy:.0f} s of a core; {plan.source}"),
    ]
    return "\n".join(f"{label:<{_WIDTH}}{text}".rstrip() for label, text in rows)


def _micro(plan: Plan) -> str:
    accumulate = plan.run.optimizer.accumulate
    return f"{plan.rows} a device" + (f", {accumulate} times" if accumulate > 1 else "")


def _memory(plan: Plan) -> list[tuple[str, str]]:
    gradients = min(plan.gradients, plan.temporaries)
    saved = min(plan.saved, plan.temporaries - gradients)
    parts = {
        "state": (plan.state, "parameters, their average, the optimizer's moments"),
        "batch, frozen parameters": (plan.inputs, ""),
        "gradients": (gradients, ""),
        "activations": (saved, "kept for the backward pass, an estimate"),
        "temporaries": (plan.temporaries - gradients - saved, "all else that a step sets aside"),
        "program": (plan.code, ""),
    }
    lines = [("memory per device", "")]
    for label, (size, note) in parts.items():
        lines.append((f"  {label}", f"{size / GIB:9.3f} GiB  {note}"))
    share = plan.total / plan.topology.memory
    verdict = "fits" if plan.fits else "DOES NOT FIT"
    lines.append(("  in all", f"{plan.total / GIB:9.3f} GiB  {share:.0%} of it: {verdict}"))
    parts = plan.mesh["data"] * plan.mesh["fsdp"] * plan.run.optimizer.accumulate
    most = plan.most_rows
    largest = f"{most * parts}, {most} a device" if most else "none: not even one example a device"
    return [*lines, ("largest batch that fits", largest)]


def _work(plan: Plan) -> list[tuple[str, str]]:
    images = plan.run.data.batch_size / plan.topology.count
    times = plan.times
    binds = max(times, key=times.get)
    said = [("the compiler says", plan.refused)] if plan.refused else []
    return [
        *said,
        ("operations per image", f"{plan.model_flops / images / 1e12:.4g} TFLOP{_twice(plan)}"),
        ("per device and step", f"{plan.flops / 1e12:.4g} TFLOP, {plan.traffic / 1e9:.4g} GB"),
        *_collectives(plan),
        ("roofline of a step", ", ".join(f"{k} {1e3 * v:.4g} ms" for k, v in times.items())),
        ("  which binds", binds),
        (
            "at most" if plan.firm else "about",
            f"{_rate(plan.images_per_second)} images/s, MFU {plan.mfu:.1%}",
        ),
    ]


def _twice(plan: Plan) -> str:
    if plan.flops <= plan.model_flops * 1.001:
        return ""
    per_image = plan.flops * plan.topology.count / plan.run.data.batch_size
    return f"; {per_image / 1e12:.4g} with what is computed twice to save memory"


def _collectives(plan: Plan) -> list[tuple[str, str]]:
    kinds: dict[str, list[float]] = defaultdict(lambda: [0, 0.0, 0.0])
    for each in plan.collectives:
        total = kinds[each.kind]
        total[0] += each.times
        total[1] += each.times * each.size
        total[2] += each.sent
    lines = [
        (f"  {kind}", f"{count:6d}  of {size / 1e9:9.4g} GB; a device sends {sent / 1e9:.4g} GB")
        for kind, (count, size, sent) in sorted(kinds.items())
    ]
    return [("collectives", "" if lines else "none"), *lines]


def _rate(images_per_second: float) -> str:
    """Four digits that count, and no exponent."""
    rounded = float(f"{images_per_second:.4g}")
    return f"{rounded:,.0f}" if rounded >= 1000 else f"{rounded:g}"
