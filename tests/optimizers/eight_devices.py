"""Muon on eight simulated devices, run by test_sharding.py in a process of its own; prints what it found as JSON."""

import json
import re
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from jaxdiv.optimizers import MatrixAxes, TritonTiles, muon, scale_by_muon

COLLECTIVES = "all-to-all|all-gather|all-reduce|reduce-scatter|collective-permute"
STACKED = MatrixAxes(1, 2, batch=0)

# What lies how: shape, route and spec of each leaf; and how many exchanges it takes (None: one leaf is gathered first).
CASES = {
    "replicated": ({f"w{i}": ((24, 48), MatrixAxes(), P()) for i in range(16)}, 1),
    "padded": ({f"w{i}": ((24, 48) if i % 2 else (48, 24), MatrixAxes(), P()) for i in range(11)}, 1),
    "two_groups": ({f"w{i}": ((24, 48) if i % 2 else (24, 24), MatrixAxes(), P()) for i in range(16)}, 2),
    "fsdp_inputs": ({f"w{i}": ((24, 48), MatrixAxes(), P(("data", "model"))) for i in range(8)}, 2),
    "fsdp_outputs": ({f"w{i}": ((24, 48), MatrixAxes(), P(None, ("data", "model"))) for i in range(9)}, 2),
    "fsdp_and_replicas": ({f"w{i}": ((48, 24), MatrixAxes(), P("data")) for i in range(8)}, 2),
    "both_sides": ({f"w{i}": ((24, 48), MatrixAxes(), P("model", "data")) for i in range(9)}, 2),
    "layers": ({"w": ((16, 24, 48), STACKED, P(("data", "model")))}, 0),
    "layers_and_replicas": ({"w": ((16, 24, 48), STACKED, P("data"))}, 1),
    "layers_and_fsdp": ({"w": ((16, 24, 48), STACKED, P("data", None, "model"))}, 2),
    "experts": ({"w": ((2, 8, 24, 48), MatrixAxes(2, 3, batch=(0, 1)), P(None, "data", "model"))}, 2),
    "convolution": ({"w": ((3, 3, 8, 16), MatrixAxes((0, 1, 2), 3), P(None, None, None, "data")),
                     "v": ((9, 8, 16), MatrixAxes((0, 1), 2), P())}, None),
    "fused": ({"w": ((8, 24, 144), MatrixAxes(1, 2, batch=0, splits=(48, 48, 48)), P("data", "model"))}, 2),
    "fused_along_the_splits": (
        {"w": ((4, 24, 144), MatrixAxes(1, 2, batch=0, splits=(48,) * 3), P(None, None, "data"))}, None),
    "few_replicated": ({f"w{i}": ((24, 50), MatrixAxes(), P()) for i in range(3)}, 1),
    "few_long": ({f"w{i}": ((24, 48), MatrixAxes(), P(None, "data")) for i in range(3)}, 1),
    "few_short": ({f"w{i}": ((24, 48), MatrixAxes(), P("data")) for i in range(3)}, 2),
    "few_both": ({f"w{i}": ((48, 24), MatrixAxes(), P("data", "model")) for i in range(2)}, 2),
}  # fmt: skip

# What the options may add: one all-reduce for all leaves, not one for each.
VARIANTS = {
    "plain": {},
    "hyperball": {"radius": "hyperball"},
    "normuon": {"second_moment": "normuon"},
    "both": {"radius": "hyperball", "second_moment": "normuon"},
}
VARIANT_CASES = [("fsdp_inputs", name) for name in VARIANTS] + [
    (case, name)
    for case in ("fsdp_outputs", "both_sides", "experts", "convolution", "fused_along_the_splits")
    for name in ("plain", "both")
]

EXPLICIT = ((P("data"), P("data")), (P("data"), P()), (P(), P("data")), (P(None, "model"), P("data", "model")))


def count_collectives(text):
    found = re.findall(rf"= (.*) ({COLLECTIVES})(?:-start)?\(", text)
    sums = sum(kind == "all-reduce" for _, kind in found)
    return {"exchanges": len(found) - sums, "sums": sums}


def measure(mesh, leaves, **options):
    rng = np.random.default_rng(0)
    routes = {name: axes for name, (_, axes, _) in leaves.items()}
    specs = {name: spec for name, (_, _, spec) in leaves.items()}
    gradient = {name: rng.standard_normal(shape).astype(np.float32) for name, (shape, _, _) in leaves.items()}
    shardings = {name: NamedSharding(mesh, spec) for name, spec in specs.items()}
    one = scale_by_muon(routes=routes, **{k: v for k, v in options.items() if k != "max_stack_bytes"})
    expected, _ = jax.jit(one.update)(gradient, one.init(gradient))
    many = scale_by_muon(routes=routes, mesh=mesh, sharding=specs, **options)
    placed = jax.device_put(gradient, shardings)
    state = jax.device_put(many.init(gradient), NamedSharding(mesh, P()))
    state = state._replace(momentum=jax.device_put(state.momentum, shardings))
    whole = jax.tree.map(lambda _: NamedSharding(mesh, P()), state)
    step = jax.jit(many.update, out_shardings=(shardings, whole._replace(momentum=shardings)))
    lowered = step.lower(placed, state)
    compiled = lowered.compile()
    updates, new_state = compiled(placed, state)
    worst = max(
        float(np.linalg.norm(np.asarray(updates[k], np.float64) - expected[k]) / np.linalg.norm(expected[k]))
        for k in expected
    )
    text = compiled.as_text()
    return {
        "error": worst,
        "kernels": str(jax.make_jaxpr(many.update)(placed, state)).count("pallas_call"),
        "finite": all(bool(np.isfinite(x).all()) for x in updates.values()),
        # A CPU compiles every bfloat16 into float32, so what is meant to travel is read before.
        "wire": sorted(set(re.findall(r"stablehlo\.all_(?:to_all|gather)\".*x(\w+)>\)? ->", lowered.as_text()))),
        "loops": len(re.findall(r" while\(", text)),
        **count_collectives(text),
    }


def measure_whole(mesh, leaves, **options):
    """One step of all of `muon`, matrices only: updates and second moments beside those of one device."""
    rng = np.random.default_rng(2)
    routes, specs = ({name: leaf[i] for name, leaf in leaves.items()} for i in (1, 2))
    params, gradient = (
        {name: rng.standard_normal(shape).astype(np.float32) for name, (shape, _, _) in leaves.items()} for _ in "pg"
    )
    shardings = {name: NamedSharding(mesh, spec) for name, spec in specs.items()}
    one, many = (
        muon(0.1, routes=routes, dtype="float32", **options, **o) for o in ({}, dict(mesh=mesh, sharding=specs))
    )
    expected = jax.jit(one.update)(gradient, one.init(params), params)
    state = many.init(params)
    # Momentum lies as the parameters do, the rest whole.
    lies = jax.tree.map(lambda x: NamedSharding(mesh, P()), state)
    first, *rest = lies.inner_states["muon"].inner_state
    lies.inner_states["muon"] = lies.inner_states["muon"]._replace(
        inner_state=(first._replace(momentum=shardings), *rest)
    )
    gradient, params = jax.device_put((gradient, params), (shardings, shardings))
    state = jax.device_put(state, lies)
    compiled = jax.jit(many.update, out_shardings=(shardings, lies)).lower(gradient, state, params).compile()
    got = compiled(gradient, state, params)
    worst = max(
        float(np.linalg.norm(np.asarray(x, np.float64) - np.asarray(y)) / (np.linalg.norm(np.asarray(y)) or 1.0))
        for x, y in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True)
    )
    return {"error": worst, **count_collectives(compiled.as_text())}


def explicit(**options):
    """Under a mesh of Explicit axes, which jax.make_mesh makes by default: arrays that lie as said, and otherwise."""
    rng = np.random.default_rng(3)
    gradient = {f"w{i}": rng.standard_normal((24, 48)).astype(np.float32) for i in range(8)}
    mesh = jax.make_mesh((4, 2), ("data", "model"), axis_types=(AxisType.Explicit,) * 2)
    one = muon(0.1, routes=MatrixAxes(), dtype="float32", **options)
    expected, _ = jax.jit(one.update)(gradient, one.init(gradient), gradient)
    found = {}
    with jax.set_mesh(mesh):
        for lie, said in EXPLICIT:
            many = muon(0.1, routes=MatrixAxes(), dtype="float32", mesh=mesh, sharding=said, **options)
            placed = jax.device_put(gradient, NamedSharding(mesh, lie))
            updates, _ = jax.jit(many.update)(placed, jax.jit(many.init)(placed), placed)
            found[f"{lie} said {said}"] = {
                "error": max(float(np.abs(np.asarray(updates[k]) - expected[k]).max()) for k in expected),
                "stays": all(u.sharding.is_equivalent_to(placed[k].sharding, 2) for k, u in updates.items()),
            }
    return found


def train(mesh, **options):
    """Three steps of all of Muon: matrices split in one way, the rest in another; donated buffers."""
    rng = np.random.default_rng(1)
    shapes = {"embed": (16, 24), "layers": (4, 24, 48), "norm": (24,)}
    params = {name: rng.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}
    specs = {"embed": P("data"), "layers": P(None, "model", "data"), "norm": P()}
    routes = {"embed": None, "layers": STACKED, "norm": None}
    runs = []
    for place in (jax.devices()[0], {name: NamedSharding(mesh, spec) for name, spec in specs.items()}):
        on_mesh = {} if isinstance(place, jax.Device) else {"mesh": mesh, "sharding": specs}
        optimizer = muon(0.05, routes=routes, dtype="float32", **on_mesh, **options)

        def step(params, state, optimizer=optimizer):
            updates, state = optimizer.update(jax.tree.map(jnp.sin, params), state, params)
            return optax.apply_updates(params, updates), state

        placed, step = jax.device_put(params, place), jax.jit(step, donate_argnums=(0, 1))
        state = jax.jit(optimizer.init)(placed)
        for _ in range(3):
            placed, state = step(placed, state)
        runs.append(jax.device_get(placed))
    return max(float(np.abs(runs[0][name] - runs[1][name]).max()) for name in params)


def main():
    mesh = jax.make_mesh((4, 2), ("data", "model"), axis_types=(AxisType.Auto,) * 2)
    found, trained = {}, {}
    for name, (leaves, _) in CASES.items():
        found[name] = measure(mesh, leaves, dtype="float32")
    replicated, fsdp = CASES["replicated"][0], CASES["fsdp_inputs"][0]
    found["bfloat16"] = measure(mesh, fsdp)
    found["float16"] = measure(mesh, fsdp, dtype="float16")
    found["normuon"] = measure(mesh, replicated, dtype="float32", second_moment="normuon")
    found["chunks"] = measure(mesh, replicated, dtype="float32", max_stack_bytes=8 * 24 * 48 * 4)
    found["large"] = measure(mesh, replicated, dtype="float32", max_stack_bytes=1000)
    found["aol"] = measure(mesh, CASES["few_long"][0], dtype="float32", schedule="aol")
    found["polar_express"] = measure(mesh, CASES["few_short"][0], dtype="float32", schedule="polar_express")
    found["kernels"] = measure(mesh, replicated, dtype="float32", kernels=TritonTiles(16, 16, 16))
    found["kernels_few"] = measure(mesh, CASES["few_long"][0], dtype="float32", kernels=TritonTiles(16, 16, 16))
    for name, options in {"adamw beside": {}, "hyperball": {"radius": "hyperball", "second_moment": "normuon"}}.items():
        trained[name] = train(mesh, **options)
    variants = {f"{case} {name}": measure_whole(mesh, CASES[case][0], **VARIANTS[name]) for case, name in VARIANT_CASES}
    strict = {name: explicit(**VARIANTS[name]) for name in ("plain", "both")}
    print(json.dumps({"cases": found, "trained": trained, "variants": variants, "explicit": strict}))


if __name__ == "__main__":
    warnings.simplefilter("error")
    jax.config.update("jax_num_cpu_devices", 8)
    jnp.zeros(())
    main()
