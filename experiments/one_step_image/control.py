"""The control: the same student trained by plain regression onto noise-image pairs of the teacher's ODE, no
distillation.
"""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from experiments.one_step_image.config import Config
from experiments.one_step_image.models import Denoiser, build_student
from experiments.one_step_image.student import Pairs
from experiments.one_step_image.teacher import STEPS_PER_CALL
from jaxdiv import training
from jaxdiv.typing import Array, PRNGKey, PyTree

# Larger than the student's, since the control's target does not move.
BATCH_SIZE, LEARNING_RATE = 256, 2e-3


def regress(config: Config, denoiser: Denoiser, teacher: PyTree, pairs: Pairs) -> PyTree:
    """Averaged weights of a student that minimises ``mean |student(z) - x|^2`` over the pairs, from the teacher's."""
    settings = config.distill
    student_fn = build_student(denoiser, settings)
    rows = pairs.rows(batch_size=min(BATCH_SIZE, len(pairs.samples)), seed=settings.seed)

    def loss_fn(params: PyTree, batch: tuple[Array, Array], key: PRNGKey) -> tuple[Array, dict[str, Any]]:
        latents, samples = batch
        return jnp.mean(jnp.square(student_fn(params, latents, None) - samples)), {}

    def batch_fn(step: int) -> tuple[Array, Array]:
        chosen = rows.at(step)["label"]
        return pairs.latents[chosen], pairs.samples[chosen]

    schedule = optax.linear_schedule(LEARNING_RATE, 0.0, config.control_steps)
    optimizer = optax.chain(optax.clip_by_global_norm(settings.clip_norm), optax.adam(schedule))
    step_fn = training.make_train_step(loss_fn, optimizer, decay=settings.ema_decay, steps_per_call=STEPS_PER_CALL)
    state = training.create_state(teacher, optimizer, jax.random.key(settings.seed))
    state = training.train(
        step_fn, state, num_steps=config.control_steps, batch_fn=batch_fn, steps_per_call=STEPS_PER_CALL,
        log_every=STEPS_PER_CALL, description="control", progress=("loss",),
    )  # fmt: skip
    return state.ema
