"""A record per network: knobs, gaps, what each layer has, and the measures that are held against the gap."""

from typing import Any

import jax
import numpy as np

from experiments.generalization_bounds.config import Config
from experiments.generalization_bounds.learn import Group
from jaxdiv.information import bottleneck_gap_scale

Network = dict[str, Any]
SATURATED = 0.05  # nats below its ceiling from which an estimate says no more than "at least this"
GAPS = ("loss gap", "error gap")
_scale = jax.jit(bottleneck_gap_scale, static_argnames="num_samples")


def make_records(
    config: Config, measured: dict[str, Any], parameters: dict[str, Any], *, depth: int, width: int
) -> list[Network]:
    """The records of all networks of a shape, from `measure_group` and `parameter_information`."""
    group = Group.of(config)
    measured, parameters = jax.device_get((measured, parameters))
    records = []
    for g in range(len(group.seed)):
        row = jax.tree.map(lambda leaf, g=g: leaf[g], measured)
        layers = row["information"] | {name: values[g] for name, values in parameters.items()}
        record: Network = {"depth": depth, "width": width}
        record |= {name: values[g].item() for name, values in group._asdict().items()}
        for name in ("loss", "error"):
            record |= {f"{split} {name}": float(row[f"{split} {name}"]) for split in ("train", "test")}
            record[f"{name} gap"] = record[f"test {name}"] - record[f"train {name}"]
        record["layers"] = {name: np.asarray(values, np.float64).tolist() for name, values in layers.items()}
        measures = layer_measures(layers, config.num_train) | row["baselines"] | {"- training loss": -row["train loss"]}
        # Six digits: of two terms that reach the same ceiling, rounding must not make one the larger.
        record["measures"] = {name: float(f"{value:.6g}") for name, value in measures.items()}
        records.append(record)
    return records


def layer_measures(layers: dict[str, Any], num_train: int) -> dict[str, float]:
    """The terms of the bounds, of a network whose layers are given; larger ones should mean larger gaps.

    - "encoder": sqrt(I(X; Z_l | Y) / n), at the first layer, the last, or the layer where it is least, by the lower
      bound, which stops at the log size of a class, or by the upper; of the information at known noise of the layers
      before, which is more than I(X; Z_l | Y) behind the first: there the upper bounds it and the lower need not,
    - "parameters": sqrt(I(phi_L; S) / n), by the estimate that stops at log K or by the mean divergence,
    - "both": the root of the sum, at the layer where it is least; lower with the first of these, upper with the second.
    """
    lower, upper = (np.maximum(layers[name], 0.0) for name in ("lower", "upper"))

    def scale(encoder: np.ndarray, parameters: Any) -> np.ndarray:
        return np.asarray(_scale(encoder, num_samples=num_train, parameter_information=np.asarray(parameters)))

    none = np.zeros_like(lower)
    found: dict[str, float] = {}
    for name, values in (("lower", lower), ("upper", upper)):
        term = scale(values, none)
        found |= {f"encoder {name}, first": term[0], f"encoder {name}, last": term[-1]}
        found[f"encoder {name}, least"] = term.min()
    for name, values, extra in (("lower", lower, "parameters"), ("upper", upper, "divergences")):
        found[f"parameters {name}"] = scale(none, layers[extra])[-1]
        found[f"both {name}, least"] = scale(values, layers[extra]).min()
    return found


def knobs_of(network: Network) -> dict[str, Any]:
    """What was chosen of a network, for the groups in which one of these varies."""
    return {name: network[name] for name in ("depth", "width", "weight_decay", "draw", "seed")}


def is_saturated(layers: dict[str, Any]) -> list[bool]:
    """By layer: the lower bound of the encoder's information is within `SATURATED` of its ceiling.

    >>> is_saturated({"lower": [3.39, 2.0], "ceiling": [3.4, 3.4]})
    [True, False]
    """
    return [value > top - SATURATED for value, top in zip(layers["lower"], layers["ceiling"], strict=True)]
