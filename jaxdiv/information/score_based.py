"""Mutual information from denoisers: what knowing y takes off the error of denoising x, over all levels of noise."""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax

from jaxdiv.checks import check_choice, check_integer, check_key, check_real, check_same_shape, fail
from jaxdiv.diffusion import denoising_loss, edm_weight, precondition
from jaxdiv.information.arguments import paired_samples
from jaxdiv.information.critics import apply_layers, check_widths, init_layers
from jaxdiv.information.estimate import Estimate, make_estimate
from jaxdiv.typing import Array, PRNGKey

FORMS = ("errors", "difference")


def _check_levels(function: str, sigma_min: Any, sigma_max: Any, num_levels: Any) -> None:
    check_real(function, "sigma_min", sigma_min, 0.0, math.inf, open_low=True, open_high=True)
    check_real(function, "sigma_max", sigma_max, sigma_min, math.inf, open_low=True, open_high=True)
    check_integer(function, "num_levels", num_levels, 1)


def denoising_information(
    marginal_fn: Callable[[Array, Array], Array],
    conditional_fn: Callable[[Array, Array, Array], Array],
    x: Any,
    y: Any,
    *,
    key: PRNGKey,
    form: str = "errors",
    sigma_min: float = 0.01,
    sigma_max: float = 30.0,
    num_levels: int = 64,
) -> Estimate:
    r"""The mutual information that two denoisers of x show, one of which sees y.

    With x_t = x + sigma n, D = E[x | x_t] and D_y = E[x | x_t, y], and with 1 / sigma^2 for the signal-to-noise ratio,

        I(X; Y) = int E[|x - D|^2 - |x - D_y|^2] / sigma^2 dlog sigma    (form="errors")
                = int E|D_y - D|^2 / sigma^2 dlog sigma                  (form="difference"),

    the second as the score is (D - x_t) / sigma^2. From sigma_min to sigma_max the integral is exactly
    I(X_min; Y) - I(X_max; Y), below I(X; Y). What is lost above is at most tr Cov(x) / (2 sigma_max^2); what is lost
    below is the part of the information that noise of sigma_min hides. With learnt denoisers either form is off by
    their errors, in "difference" mostly upwards, and neither is a bound.

    Args:
        marginal_fn: (x_t ``[N, d_x]``, sigma ``[N]``) -> D, of the shape of x_t.
        conditional_fn: (x_t, sigma, y ``[N, d_y]``) -> D_y.
        x: floating ``[N, d_x]`` or ``[N]``: samples that did not train the denoisers.
        y: floating ``[N, d_y]`` or ``[N]``.
        key: typed PRNG key, for levels and noise.
        form: "errors" or "difference". The second has less variance and is never negative, not even where it should
            be.
        sigma_min: the smallest noise, in units of x.
        sigma_max: the largest noise, in units of x.
        num_levels: draws of sigma per row, one in each part of [log sigma_min, log sigma_max].

    Returns:
        An `Estimate` of kind "plug-in" in the dtype of the inputs, float32 at least, differentiable through the
        denoisers. ``info["local"]`` ``[N]`` are the rows' own terms; ``info["integrand"]`` ``[num_levels]`` the mean of
        what is integrated, in ascending order of noise: it should vanish at both ends.

    Raises:
        ValueError: wrong shapes, dtypes, types or ranges, or a denoiser that returns another shape.

    Source: Guo, Shamai, Verdu, "Mutual information and minimum mean-square error in Gaussian channels"
    (arXiv:cs/0412108), equation 1; Franzese, Bounoua, Michiardi, "MINDE: mutual information neural diffusion
    estimation" (arXiv:2310.09031); Kong et al., "Interpretable diffusion via information decomposition"
    (arXiv:2310.07972).

    >>> x = jax.random.normal(jax.random.key(0), (2000, 1))  # y = x + noise of variance 1: I = log(2) / 2
    >>> y = x + jax.random.normal(jax.random.key(1), (2000, 1))
    >>> found = denoising_information(
    ...     lambda x_t, s: x_t / (1 + s[:, None] ** 2),
    ...     lambda x_t, s, y: (x_t / s[:, None] ** 2 + y) / (1 / s[:, None] ** 2 + 2),
    ...     x, y, key=jax.random.key(2), form="difference")
    >>> abs(float(found) - 0.5 * math.log(2)) < 0.02
    True
    """
    function = "denoising_information"
    for name, fn in (("marginal_fn", marginal_fn), ("conditional_fn", conditional_fn)):
        if not callable(fn):
            raise fail(function, name, f"is {fn!r}", "a denoiser")
    x, y = paired_samples(function, x=x, y=y)
    check_key(function, key)
    check_choice(function, "form", form, FORMS)
    _check_levels(function, sigma_min, sigma_max, num_levels)
    width = math.log(sigma_max / sigma_min)

    def at_level(index: Array) -> Array:
        level_key, noise_key = jax.random.split(jax.random.fold_in(key, index))
        place = (index + jax.random.uniform(level_key, x.shape[:1], x.dtype)) / num_levels
        sigma = sigma_min * jnp.exp(width * place)
        x_t = x + sigma[:, None] * jax.random.normal(noise_key, x.shape, x.dtype)
        without, given = marginal_fn(x_t, sigma), conditional_fn(x_t, sigma, y)
        check_same_shape(function, x=x, marginal_fn=without, conditional_fn=given)
        if form == "errors":
            gain = jnp.square((x - without) / sigma[:, None]) - jnp.square((x - given) / sigma[:, None])
        else:
            gain = jnp.square((given - without) / sigma[:, None])
        # Denoisers need not look at y at all; a NaN there is to be seen all the same.
        return jnp.sum(gain, axis=1) + 0.0 * jnp.sum(y, axis=1)

    terms = jax.lax.map(at_level, jnp.arange(num_levels))
    local = width * jnp.mean(terms, axis=0)
    return make_estimate(jnp.mean(local), kind="plug-in", local=local, integrand=jnp.mean(terms, axis=1))


def score_mutual_information(
    x: Any,
    y: Any,
    *,
    key: PRNGKey,
    form: str = "errors",
    widths: Sequence[int] = (128, 128),
    optimizer: optax.GradientTransformation | None = None,
    num_steps: int = 2000,
    batch_size: int = 512,
    held_out: float = 0.5,
    sigma_min: float = 0.01,
    sigma_max: float = 30.0,
    num_levels: int = 64,
) -> Estimate:
    r"""`denoising_information` by one network, trained to denoise x with y and, in half of all examples, without.

    x and y are brought to mean 0 and standard deviation 1 by the rows that train; noise is in these units. The network
    is a relu network of (x_t, log sigma, y, whether y is given) under EDM's preconditioning and loss weight, with
    levels drawn uniformly in log sigma. Its last parameters are evaluated on the held-out rows.

    Args:
        x: floating ``[N, d_x]`` or ``[N]``: what is denoised; the narrower of the two is the better choice.
        y: floating ``[N, d_y]`` or ``[N]``.
        key: typed PRNG key.
        form: as in `denoising_information`.
        widths: hidden layers, at least one.
        optimizer: an optax transformation; None for Adam at 2e-3, falling to 0 along a cosine.
        num_steps: training steps.
        batch_size: rows of a batch, drawn with replacement.
        held_out: share of rows that report, in (0, 1).
        sigma_min: the smallest noise.
        sigma_max: the largest noise.
        num_levels: draws of sigma per held-out row.

    Returns:
        An `Estimate` of kind "plug-in", as `denoising_information` has it, with ``info["training_curve"]``
        ``[num_steps]``, the weighted denoising loss. NaN or infinity among the samples makes the value NaN. Compiled
        once per shape and setting. Nothing is to be differentiated.

    Raises:
        ValueError: wrong shapes, types or ranges, or a part without rows.

    Source: as `denoising_information`; Karras et al. (arXiv:2206.00364) for the loss; Ho and Salimans, "Classifier-free
    diffusion guidance" (arXiv:2207.12598) for the dropped condition.

    >>> x = jax.random.normal(jax.random.key(0), (100, 1))
    >>> found = score_mutual_information(x, x, key=jax.random.key(1), widths=(8,), num_steps=2, num_levels=4)
    >>> found.kind, found.info["local"].shape
    ('plug-in', (50,))
    """
    function = "score_mutual_information"
    x, y = paired_samples(function, x=x, y=y)
    check_key(function, key)
    check_choice(function, "form", form, FORMS)
    widths = check_widths(function, widths)
    if not widths:
        raise fail(function, "widths", "is ()", "at least one hidden layer")
    check_integer(function, "num_steps", num_steps, 1)
    check_integer(function, "batch_size", batch_size, 1)
    check_real(function, "held_out", held_out, 0.0, 1.0, open_low=True, open_high=True)
    _check_levels(function, sigma_min, sigma_max, num_levels)
    if optimizer is not None and not isinstance(optimizer, optax.GradientTransformation):
        raise fail(function, "optimizer", f"is {optimizer!r}", "an optax transformation or None")
    num_held_out = round(held_out * x.shape[0])
    check_integer(function, "held-out rows of x", num_held_out, 1, x.shape[0] - 1)
    return _fit(
        key,
        x,
        y,
        form=form,
        widths=widths,
        optimizer=optimizer,
        num_steps=num_steps,
        batch_size=batch_size,
        num_held_out=num_held_out,
        levels=(float(sigma_min), float(sigma_max), int(num_levels)),
    )


@functools.partial(
    jax.jit,
    static_argnames=("form", "widths", "optimizer", "num_steps", "batch_size", "num_held_out", "levels"),
)
def _fit(
    key: PRNGKey,
    x: Array,
    y: Array,
    *,
    form: str,
    widths: tuple[int, ...],
    optimizer: optax.GradientTransformation | None,
    num_steps: int,
    batch_size: int,
    num_held_out: int,
    levels: tuple[float, float, int],
) -> Estimate:
    sigma_min, sigma_max, num_levels = levels
    if optimizer is None:
        optimizer = optax.adam(optax.cosine_decay_schedule(2e-3, num_steps))
    split_key, init_key, train_key, report_key = jax.random.split(key, 4)
    order = jax.random.permutation(split_key, x.shape[0])
    train = order[num_held_out:]

    def standardize(data: Array) -> Array:
        scale = jnp.std(data[train], axis=0)
        return (data - jnp.mean(data[train], axis=0)) / jnp.where(scale > 0.0, scale, 1.0)

    u, v = standardize(x), standardize(y)

    def network(params: Any, x_t: Array, c_noise: Array, given: Array, present: Array) -> Array:
        flag = present.astype(x_t.dtype)[:, None]
        return apply_layers(params, jnp.concatenate([x_t, c_noise[:, None], given * flag, flag], axis=1))

    denoise = precondition(network, sigma_data=1.0)

    def step(carry: tuple[Any, Any], number: Array) -> tuple[tuple[Any, Any], Array]:
        params, state = carry
        rows_key, level_key, noise_key, drop_key = jax.random.split(jax.random.fold_in(train_key, number), 4)
        rows = train[jax.random.randint(rows_key, (batch_size,), 0, train.shape[0])]
        place = jax.random.uniform(level_key, (batch_size,), x.dtype)
        sigma = sigma_min * jnp.exp(math.log(sigma_max / sigma_min) * place)
        noise = jax.random.normal(noise_key, (batch_size, x.shape[1]), x.dtype)
        present = jax.random.bernoulli(drop_key, 0.5, (batch_size,))

        def loss(params: Any) -> Array:
            def denoise_fn(x_t: Array, sigma: Array) -> Array:
                return denoise(params, x_t, sigma, v[rows], present)

            weight = edm_weight(sigma, sigma_data=1.0)
            return jnp.mean(denoising_loss(denoise_fn, u[rows], sigma=sigma, noise=noise, weight=weight))

        value, slope = jax.value_and_grad(loss)(params)
        updates, state = optimizer.update(slope, state, params)
        return (optax.apply_updates(params, updates), state), value

    params = init_layers(init_key, (x.shape[1] + 1 + y.shape[1] + 1, *widths, x.shape[1]), is_zero=True)
    (params, _), curve = jax.lax.scan(step, (params, optimizer.init(params)), jnp.arange(num_steps))
    rows = order[:num_held_out]
    given = jnp.ones(num_held_out, bool)
    estimate = denoising_information(
        lambda x_t, sigma: denoise(params, x_t, sigma, v[rows], ~given),
        lambda x_t, sigma, y: denoise(params, x_t, sigma, y, given),
        u[rows],
        v[rows],
        key=report_key,
        form=form,
        sigma_min=sigma_min,
        sigma_max=sigma_max,
        num_levels=num_levels,
    )
    usable = jnp.all(jnp.isfinite(x)) & jnp.all(jnp.isfinite(y))
    return make_estimate(
        jnp.where(usable, estimate.value, jnp.nan),
        kind=estimate.kind,
        stderr=estimate.stderr,
        **estimate.info,
        training_curve=curve,
    )
