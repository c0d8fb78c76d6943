"""Plans: what they say is what a run then does, on devices that exist; the others by shapes."""

import importlib.util
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from jaxdiff.errors import UserError
from jaxdiff.models import attention, count_parameters, parameter_shapes
from jaxdiff.planning.batches import command, recommend, sweep, table
from jaxdiff.planning.blueprint import blueprint, with_unet_options
from jaxdiff.planning.chips import parse_topology
from jaxdiff.planning.compiled import make_plan, traffic
from jaxdiff.planning.plan import Plan
from jaxdiff.planning.report import render
from jaxdiff.planning.traced import probe
from jaxdiff.presets import PRESETS
from jaxdiff.training import dispatch, loop
from jaxdiff.training.options import MeshConfig, OptimizerConfig
from jaxdiff.training.sharding import bytes_per_device

ROOT = Path(__file__).parents[2]
SUPPORT = ROOT / "tests" / "support"
MESHES = {"data": MeshConfig(), "fsdp": MeshConfig(data=2, fsdp=4)}


REPORTED = (
    "mine on cpu:8",
    "parameters",
    "state",
    "activations",
    "temporaries",
    "in all",
    "operations per image",
    "all-gather",
    "roofline",
    "which binds",
    "images/s, MFU",
    "largest batch that fits",
    "planned in",
)


def _measured(run, monkeypatch):
    """Train two steps: what lay on one device at the second, and what the compiler said."""
    seen = {}
    step = dispatch.Steps.__call__

    def watched(self, state, frozen, batch, *rest):
        seen["state"] = bytes_per_device(state)
        seen["inputs"] = bytes_per_device((frozen, batch))
        out = step(self, state, frozen, batch, *rest)
        ((compiled, _),) = self._compiled.values()
        seen["memory"] = compiled.memory_analysis()
        return out

    monkeypatch.setattr(dispatch.Steps, "__call__", watched)
    loop.train(replace(run, num_steps=2))
    return seen


def _agree(run, monkeypatch):
    plan, seen = make_plan(run, "cpu:8"), _measured(run, monkeypatch)
    assert plan.state == seen["state"]
    assert plan.inputs == seen["inputs"]
    fresh = seen["memory"].output_size_in_bytes - seen["memory"].alias_size_in_bytes
    assert plan.temporaries == seen["memory"].temp_size_in_bytes + fresh
    assert plan.fits
    return plan


@pytest.mark.slow
def test_a_plan_for_cpus_is_what_the_run_allocates(diffusion_run, monkeypatch):
    run = replace(diffusion_run, mesh=MESHES["fsdp"])
    plan = _agree(run, monkeypatch)
    text = render(plan, "mine")
    for word in REPORTED:
        assert word in text


@pytest.mark.slow
@pytest.mark.parametrize("mesh", MESHES)
def test_a_plan_of_tiny_is_what_the_run_allocates(tmp_path, monkeypatch, mesh):
    tiny = PRESETS["tiny"][1]
    preview = replace(tiny.preview, every=0)
    _agree(replace(tiny, mesh=MESHES[mesh], workdir=tmp_path, preview=preview), monkeypatch)


@pytest.mark.slow
def test_a_process_grows_by_the_temporaries(tmp_path):
    """The compiler's word for them, which plans repeat, is what the system gives out.

    With glibc's heap as it comes: threads that share one take what others gave back, and the
    process grows by less.
    """
    script = [sys.executable, SUPPORT / "allocated.py", tmp_path / "run"]
    env = os.environ | {"JAXDIFF_KEEP_HEAP": "0"}
    out = subprocess.run(script, capture_output=True, text=True, check=True, cwd=ROOT, env=env)
    grown, said = map(int, re.findall(r"allocated (\d+) (\d+)", out.stdout)[-1])
    assert 0.9 * said < grown < 1.25 * said


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("libtpu") is None, reason="needs libtpu")
def test_a_plan_for_tpus_without_one(diffusion_run):
    plan = make_plan(replace(diffusion_run, mesh=MeshConfig(1, -1)), "v5e:2x4")
    assert plan.fits and plan.total < plan.topology.memory / 10
    assert {"all-gather"} <= {each.kind for each in plan.collectives}


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("libtpu") is None, reason="needs libtpu")
def test_a_plan_for_tpus_has_their_attention(diffusion_run, monkeypatch):
    """The whole step, its kernel cut over the mesh, with recomputation and micro-batches."""
    monkeypatch.setattr(attention, "LONG", 128)
    data = replace(diffusion_run.data, resolution=32, batch_size=16)
    optimizer = replace(diffusion_run.optimizer, accumulate=2)
    run = replace(diffusion_run, data=data, optimizer=optimizer, mesh=MeshConfig(1, 4, 2))
    plan = make_plan(with_unet_options(run, remat="blocks"), "v5e:2x4")
    plain = make_plan(with_unet_options(run, attention="einsum"), "v5e:2x4", effort="none")
    assert plan.fits
    assert plan.model_flops == pytest.approx(plain.model_flops, rel=1e-3)


@pytest.mark.slow
def test_a_sweep_recommends_what_fits(diffusion_run):
    found = sweep(diffusion_run, "cpu:8")
    assert {plan.mesh["fsdp"] for plan in found} == {1, 2, 4, 8}
    assert all(plan.total < plan.topology.memory for plan in found)
    assert found[0].images_per_second >= found[-1].images_per_second
    assert command(found[0]).startswith("--mesh.data ")
    assert len(table(found).splitlines()) == 1 + 3 * 4
    with pytest.raises(UserError, match="leave mesh.tensor out"):
        sweep(replace(diffusion_run, mesh=MeshConfig(tensor=2)), "cpu:8")


def test_a_sweep_without_blocks_to_recompute(autoencoder_run, capsys):
    best = recommend(autoencoder_run, "cpu:2", "none")
    told = capsys.readouterr().out
    assert "remat " not in told.split("estimated in")[1] and "compiling" not in told
    assert len(told.split("estimated in")[0].splitlines()) == 1 + 2
    assert best.source.startswith("estimated") and not best.firm


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("v5e:3x5", "of v5e there are: v5e:2x2, v5e:2x4"),
        ("v5e", "of v5e there are: v5e:2x2"),
        ("v7:4x4", "unknown topology 'v7:4x4'"),
        ("cpu:3", "of cpu there are: cpu:1, cpu:2"),
    ],
)
def test_an_unknown_topology_lists_those_there_are(name, message):
    with pytest.raises(UserError, match=message):
        parse_topology(name)


@pytest.mark.parametrize(
    ("name", "group", "links"),
    [
        ("v5e:4x4", 16, 2),  # two lines
        ("v5e:16x16", 256, 4),  # two rings
        ("v5e:16x16", 16, 2),  # one ring
        ("v5e:16x16", 8, 1),  # a part of one
        ("v5e:8x16", 128, 3),
        ("v5p:4x4x4", 64, 6),
        ("v5p:4x4x4", 16, 4),
        ("v5p:2x4x4", 32, 3),  # no torus unless all axes close
        ("v4:2x2x1", 4, 2),
        ("v4:2x2x1", 2, 1),
    ],
)
def test_a_collective_has_the_links_of_the_axes_it_spans(name, group, links):
    topology = parse_topology(name)
    assert topology.rate(group) == links * topology.chip.link_rate


def test_devices_at_a_switch_have_all_of_it():
    box = parse_topology("h100:8")
    assert box.count == 8 and box.rate(2) == box.rate(8) == box.chip.link_rate


def test_micro_batches_repeat_all_but_the_optimizer(autoencoder_config):
    plan = Plan(
        run=autoencoder_config,
        topology=parse_topology("cpu:8"),
        mesh={},
        parameters=0,
        state=100.0,
        gradients=10.0,
        collectives=(),
        source="",
        **dict.fromkeys(
            ("model_flops", "flops", "inputs", "saved", "temporaries", "code", "traffic"), 0.0
        ),
    )
    several = replace(plan, run=replace(plan.run, optimizer=OptimizerConfig(accumulate=4)))
    assert traffic(250.0, plan) == 250 and traffic(250.0, several) == 220 + 4 * 30
    assert traffic(90.0, several) == 90


def test_a_mesh_or_batch_that_does_not_divide_is_named(diffusion_run):
    with pytest.raises(UserError, match="does not make up 8 devices"):
        make_plan(replace(diffusion_run, mesh=MeshConfig(3, 1, 1)), "cpu:8")
    odd = replace(diffusion_run, data=replace(diffusion_run.data, batch_size=12))
    with pytest.raises(UserError, match="data.batch_size=12 does not divide"):
        make_plan(odd, "cpu:8")
    with pytest.raises(UserError, match="leave --steps-per-dispatch out"):
        make_plan(replace(diffusion_run, steps_per_dispatch=3, log_every=3), "cpu:8")
    with pytest.raises(UserError, match="trains from scratch"):
        make_plan(PRESETS["lora"][1], "cpu:1")


# Parameters of the published networks (the checkpoints' own counts), and what a step of training
# costs: three times the forward pass. Published: SD2 at 512 px 2.41, SDXL at 1024 px 20.3 TFLOP.
@pytest.mark.parametrize(
    ("name", "parameters"),
    [("sd15", 859_520_964), ("sd21", 865_910_724), ("sdxl", 2_567_463_684)],
)
def test_large_presets_have_the_published_shapes(name, parameters):
    run = PRESETS[name][1]
    assert count_parameters(parameter_shapes(run.objective.method.unet)) == parameters
    assert run.dtype == "bfloat16"
    batch = blueprint(run).batch
    side = run.data.resolution // 8
    assert batch["moments"].shape == (2048, side, side, 8)
    assert batch["context"].shape == (2048, 77, run.objective.method.unet.cross_attention_dim)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "published"), [("sd21", 2.41), ("sdxl", 20.3)])
def test_large_presets_cost_what_is_published(name, published):
    run = with_unet_options(PRESETS[name][1], remat="none")
    assert probe(run).flops / 1e12 == pytest.approx(published, rel=0.1)
