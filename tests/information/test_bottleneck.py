"""The objectives against exact bottlenecks, closed forms and Gram matrices in numpy."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree
from scipy.optimize import minimize
from scipy.special import entr

from jaxdiv.divergences import Gaussian, gaussian_kernel
from jaxdiv.information import (
    ceb_loss,
    cs_bottleneck_loss,
    dib_loss,
    gaussian_information_bottleneck,
    hsic_bottleneck_loss,
    information_bottleneck_curve,
    nib_loss,
    vib_loss,
)

pytestmark = pytest.mark.usefixtures("x64")
RNG = np.random.default_rng(0)
DX, DY, DZ = 3, 2, 3


def run(objective, *arrays, **options):
    """In one compilation."""
    return jax.jit(functools.partial(objective, **options))(*arrays)


def joint_covariance():
    factor = np.random.default_rng(1).normal(size=(DX + DY, DX + DY)) / 2 + np.eye(DX + DY)
    return factor @ factor.T


def linear_gaussian(objective):
    """(loss and gradient in a flat vector, its start, its parameters): a linear-Gaussian bottleneck, exactly.

    Every term is quadratic in (x, y, noise), so the 2 D points +-sqrt(D) e_k, whose mean is 0 and covariance I, give
    its expectation.
    """
    d = DX + DY + DZ
    points = np.concatenate([np.eye(d), -np.eye(d)]) * d**0.5
    xy = points[:, : DX + DY] @ np.linalg.cholesky(joint_covariance()).T
    x, y, noise = xy[:, :DX], xy[:, DX:], points[:, DX + DY :]

    def loss(p, beta):
        means, log_variances = x @ p["encoder"].T, jnp.broadcast_to(p["log_variance"], noise.shape)
        z = means + jnp.exp(log_variances / 2) * noise
        residual = (y - z @ p["decoder"].T) @ p["precision"].T
        log_det = jnp.linalg.slogdet(p["precision"])[1]
        losses = jnp.sum(residual**2, axis=1) / 2 - log_det + DY / 2 * np.log(2 * np.pi)
        return objective(losses, means, log_variances, y, p, beta)

    rng = np.random.default_rng(2)
    start = {
        "encoder": rng.normal(size=(DZ, DX)),
        "log_variance": np.zeros(DZ),
        "decoder": rng.normal(size=(DY, DZ)) / 2,
        "precision": np.eye(DY),
        "backward": rng.normal(size=(DZ, DY)) / 2,
        "backward_log_variance": np.zeros(DZ),
    }
    flat, unravel = ravel_pytree(start)
    return jax.jit(jax.value_and_grad(lambda v, beta: loss(unravel(v), beta).loss)), flat, unravel, loss


def vib(losses, means, log_variances, y, p, beta):
    return vib_loss(losses, means, log_variances, beta=beta)


def ceb(losses, means, log_variances, y, p, beta):
    backward = jnp.broadcast_to(p["backward_log_variance"], means.shape)
    return ceb_loss(losses, means, log_variances, y @ p["backward"].T, backward, beta=beta)


@pytest.mark.parametrize("objective, offset", [(vib, 0.0), (ceb, 1.0)], ids=["vib", "ceb"])
def test_trained_linear_gaussian_bottlenecks_land_on_the_closed_form(objective, offset):
    covariance = joint_covariance()
    blocks = covariance[:DX, :DX], covariance[:DX, DX:], covariance[DX:, DX:]
    value_and_grad, start, unravel, loss = linear_gaussian(objective)
    given_y = blocks[0] - blocks[1] @ np.linalg.solve(blocks[2], blocks[1].T)
    entropy_y = (np.linalg.slogdet(blocks[2])[1] + DY * (1 + np.log(2 * np.pi))) / 2
    seen = []
    for beta in (0.5, 0.2, 0.02):
        found = minimize(
            value_and_grad, start, args=(beta,), jac=True, method="BFGS", options={"gtol": 1e-10, "maxiter": 2000}
        )
        p = unravel(jnp.asarray(found.x))
        encoder = np.asarray(p["encoder"]) / np.exp(np.asarray(p["log_variance"]) / 2)[:, None]
        total = np.linalg.slogdet(np.eye(DZ) + encoder @ blocks[0] @ encoder.T)[1]
        i_x, i_y = total / 2, (total - np.linalg.slogdet(np.eye(DZ) + encoder @ given_y @ encoder.T)[1]) / 2
        exact = gaussian_information_bottleneck(*blocks, tishby_beta=offset + 1 / beta)
        np.testing.assert_allclose([i_x, i_y], [exact.information_x, exact.information_y], atol=1e-6)
        terms = loss(p, beta)
        np.testing.assert_allclose(terms.prediction, entropy_y - i_y, atol=1e-6)
        np.testing.assert_allclose(terms.rate, i_x if objective is vib else i_x - i_y, atol=1e-6)
        seen.append(int(np.sum(np.linalg.norm(exact.projection, axis=1) > 0)))
    assert seen[0] < seen[-1] == 2  # both canonical directions at the end, not at the start


def test_vib_rate_by_hand_with_its_prior():
    means, log_variances = RNG.normal(size=(5, 3)), RNG.normal(size=(5, 3))
    prior_mean, prior_variance = RNG.normal(size=3), np.exp(RNG.normal(size=3))
    out = run(
        vib_loss, np.zeros(5), means, log_variances, beta=1.0, prior=Gaussian(prior_mean, variance=prior_variance)
    )
    ratio = np.exp(log_variances) / prior_variance
    kl = (ratio + np.square(means - prior_mean) / prior_variance - 1 - np.log(ratio)).sum(1) / 2
    np.testing.assert_allclose(out.rate, kl.mean(), rtol=1e-12)
    full = Gaussian(prior_mean, covariance=np.diag(prior_variance))
    np.testing.assert_allclose(run(vib_loss, np.zeros(5), means, log_variances, beta=1.0, prior=full).rate, kl.mean())
    own = run(ceb_loss, np.zeros(5), means, log_variances, means, log_variances, beta=3.0)
    assert float(own.rate) == float(own.loss) == 0.0


def test_nib_is_the_pairwise_bound_and_its_transforms():
    means, losses, variance = RNG.normal(size=(9, 2)), RNG.normal(size=9), 0.3
    squared = np.square(means[:, None] - means).sum(-1)
    rate = -np.log(np.exp(-squared / (2 * variance)).mean(1)).mean()
    for transform, added in [("identity", rate), ("square", rate**2), ("exponential", np.exp(rate))]:
        out = run(nib_loss, losses, means, variance=variance, beta=0.7, transform=transform)
        expected = losses.mean() + 0.7 * added, losses.mean(), rate
        np.testing.assert_allclose(out, expected, rtol=1e-10)
        log_variances = np.zeros_like(means)
        vib_rate = run(vib_loss, losses, means, log_variances, beta=0.7).rate
        other = {"identity": vib_rate, "square": vib_rate**2, "exponential": np.exp(vib_rate)}[transform]
        vib_out = run(vib_loss, losses, means, log_variances, beta=0.7, transform=transform)
        np.testing.assert_allclose(vib_out.loss, losses.mean() + 0.7 * other, rtol=1e-12)
    far = run(nib_loss, losses, 1e6 * means, variance=variance, beta=1.0)
    np.testing.assert_allclose(far.rate, np.log(9), rtol=1e-12)
    np.testing.assert_allclose(run(nib_loss, losses, 0 * means, variance=variance, beta=1.0).rate, 0.0, atol=1e-12)


def test_dib_is_what_the_deterministic_curve_minimises():
    """-log q(y | t) with the curve's own decoder: loss = H(Y) + beta H(T) - I(T; Y)."""
    joint = np.random.default_rng(3).dirichlet(np.ones(8)).reshape(4, 2)
    curve = information_bottleneck_curve(joint, tishby_betas=[40.0], form="deterministic", num_steps=20)
    counts = np.round(joint * 20000).astype(int)
    encoder = np.asarray(curve.encoder[0])
    empirical = counts / counts.sum()
    p_ty = encoder.T @ empirical
    x, y = (np.repeat(index.ravel(), counts.ravel()) for index in np.indices(joint.shape))
    t = encoder.argmax(1)[x]
    losses = -np.log((p_ty / np.maximum(p_ty.sum(1, keepdims=True), 1e-300))[t, y])
    out = run(dib_loss, losses, encoder[x], beta=1 / 40.0)
    entropy_y = entr(empirical.sum(0)).sum()
    expected = entropy_y + float(curve.entropy[0] / 40.0 - curve.information_y[0])
    assert 0.1 < float(out.rate) < np.log(4) - 0.1
    np.testing.assert_allclose(out.loss, expected, atol=1e-3)
    np.testing.assert_allclose(out.rate, entr(p_ty.sum(1)).sum(), rtol=1e-12)


def gram(a, b, sigma):
    return np.exp(-np.square(a[:, None] - b).sum(-1) / (2 * sigma**2))


def test_hsic_bottleneck_by_matrices():
    n, ridge = 8, 1e-2
    arrays = {"z": RNG.normal(size=(n, 2)), "x": RNG.normal(size=(n, 3)), "y": np.eye(2)[RNG.integers(0, 2, n)]}
    center, resolved = np.eye(n) - 1 / n, {}
    for name, sigma in (("z", 1.0), ("x", 2.0), ("y", 0.5)):
        k = center @ gram(arrays[name], arrays[name], sigma) @ center
        resolved[name] = k @ np.linalg.inv(k + ridge * n * np.eye(n))
    kernels = {"representation_kernel": 1.0, "x_kernel": 2.0, "y_kernel": 0.5}
    kernels = {name: gaussian_kernel(sigma) for name, sigma in kernels.items()}
    out = run(hsic_bottleneck_loss, *arrays.values(), beta=0.3, ridge=ridge, **kernels)
    zx, zy = (np.trace(resolved["z"] @ resolved[name]) for name in "xy")
    np.testing.assert_allclose(out, (-zy + 0.3 * zx, -zy, zx), rtol=1e-9)
    constant = run(hsic_bottleneck_loss, np.ones((n, 2)), arrays["x"], arrays["y"], beta=0.3)
    np.testing.assert_allclose(constant, 0.0, atol=1e-12)


@pytest.mark.parametrize("variant", ["published", "released"])
def test_cs_bottleneck_by_matrices(variant):
    n, widths = 7, (1.5, 0.8, 2.0)
    x, y, t = RNG.normal(size=(n, 2)), RNG.normal(size=(n, 1)), RNG.normal(size=(n, 3))
    prediction = y + 0.3 * RNG.normal(size=(n, 1))
    k, q = gram(x, x, widths[0]), gram(t, t, widths[2])
    weight = k.sum(1) ** 2 if variant == "published" else (k**2).sum(1)

    def term(a, b):
        return np.log(((k * gram(a, b, widths[1])).sum(1) / weight).sum())

    fit = term(y, y) + term(prediction, prediction) - 2 * term(prediction, y)
    kept = np.log((k * q).mean()) + np.log(k.mean() * q.mean()) - 2 * np.log((k.mean(1) * q.mean(1)).mean())
    out = run(cs_bottleneck_loss, x, y, prediction, t, beta=0.4, sigma=widths, variant=variant)
    np.testing.assert_allclose(out, (fit + 0.4 * kept, fit, kept), rtol=1e-9)
    same = run(cs_bottleneck_loss, x, y, y, x, beta=1.0, sigma=1.0, variant=variant, normalized=True)
    np.testing.assert_allclose(same, (1.0, 0.0, 1.0), atol=1e-9)


def cases():
    """Each objective as a function of one [6, 2] array and beta, NaN-free and generic."""
    rng = np.random.default_rng(5)
    a, b, c = rng.normal(size=(3, 6, 2))
    losses = rng.normal(size=6)
    kernel = gaussian_kernel(1.0)
    kernels = {"representation_kernel": kernel, "x_kernel": kernel, "y_kernel": kernel}
    return {
        "vib": lambda m, beta: vib_loss(m[:, 0] ** 2, m, jnp.sin(m), beta=beta, transform="square"),
        "ceb": lambda m, beta: ceb_loss(losses, m, a, jnp.sin(m), b, beta=beta),
        "nib": lambda m, beta: nib_loss(losses, m, variance=jnp.exp(m[0]), beta=beta, transform="exponential"),
        "dib": lambda m, beta: dib_loss(m[:, 0], jax.nn.softmax(m), beta=beta),
        "hsic": lambda m, beta: hsic_bottleneck_loss(m, a, b, beta=beta, ridge=0.1, **kernels),
        "cs": lambda m, beta: cs_bottleneck_loss(a, b, jnp.tanh(m), m, beta=beta, normalized=True),
    }


@pytest.mark.parametrize("name", list(cases()))
def test_gradients_vmap_and_nan(name):
    objective, beta = cases()[name], jnp.float64(0.7)
    point, direction = np.random.default_rng(6).normal(size=(2, 6, 2))

    @jax.jit
    def together(ms):
        return jax.vmap(jax.value_and_grad(lambda m: objective(m, beta).loss))(ms)

    h = 1e-5
    values, gradients = together(np.stack([point, point + h * direction, point - h * direction, np.nan * point]))
    difference = (values[1] - values[2]) / (2 * h)
    np.testing.assert_allclose(np.sum(gradients[0] * direction), difference, rtol=1e-6)
    assert np.isnan(values[3])
    terms = objective(jnp.asarray(point), 0.0)
    assert float(terms.loss) == float(terms.prediction) and np.isfinite(terms.rate)


def test_low_precision_inputs_give_float32():
    small = functools.partial(jnp.ones, dtype=jnp.bfloat16)
    for out in (
        run(vib_loss, small(4), small((4, 2)), small((4, 2)), beta=1),
        run(nib_loss, small(4), small((4, 2)), variance=1.0, beta=1.0),
        run(dib_loss, small(4), small((4, 1)), beta=jnp.float32(1.0)),
    ):
        assert {leaf.dtype for leaf in out} == {jnp.dtype("float32")}


M = np.ones((4, 2))
L = np.ones(4)
BAD = [
    (vib_loss, (L, M, M[:3]), {"beta": 1.0}, "log_variances has shape"),
    (vib_loss, (M, M, M), {"beta": 1.0}, r"prediction_losses has shape \(4, 2\); expected shape \(4\)"),
    (vib_loss, (L, M, M), {"beta": -1.0}, "beta is -1.0"),
    (vib_loss, (L, M, M), {"beta": 1.0, "transform": "cube"}, "transform is 'cube'"),
    (vib_loss, (L, M, M), {"beta": 1.0, "prior": Gaussian(np.ones(3), variance=np.ones(3))}, "prior is Gaussian"),
    (vib_loss, (L, M, M), {"beta": 1.0, "prior": 0.0}, "prior is 0.0"),
    (ceb_loss, (L, M, M, M[:, :1], M[:, :1]), {"beta": 1.0}, "backward_means has shape"),
    (ceb_loss, (L, M, M, M, M[:, 0]), {"beta": 1.0}, "backward_log_variances has shape"),
    (nib_loss, (L[:2], M), {"variance": 1.0, "beta": 1.0}, "prediction_losses has shape"),
    (nib_loss, (L, M.astype(int)), {"variance": 1.0, "beta": 1.0}, "means has dtype"),
    (dib_loss, (L, L), {"beta": 1.0}, r"assignments has shape \(4,\)"),
    (dib_loss, (L, M), {"beta": "a"}, "beta is 'a'"),
    (hsic_bottleneck_loss, (M, M, M), {"beta": np.ones(2)}, "beta has shape"),
    (cs_bottleneck_loss, (M, M, M, M), {"beta": 1.0, "sigma": (1.0, 1.0)}, "sigma has 2 entries"),
    (cs_bottleneck_loss, (M, M, M, M), {"beta": None}, "beta is None"),
]


@pytest.mark.parametrize("function, arrays, options, match", BAD, ids=range(len(BAD)))
def test_bad_arguments(function, arrays, options, match):
    with pytest.raises(ValueError, match=f"{function.__name__}: {match}"):
        function(*arrays, **options)


def test_arguments_of_the_parts_are_refused_under_their_names_here():
    for call, match in [
        (lambda: nib_loss(L, M, variance=-1.0, beta=1.0), "nib_loss: variance"),
        (lambda: hsic_bottleneck_loss(M, M, M, beta=1.0, ridge=0.0), "hsic_bottleneck_loss: ridge"),
        (lambda: cs_bottleneck_loss(M, M, M[:, 0], M, beta=1.0), "cs_bottleneck_loss: prediction"),
    ]:
        with pytest.raises(ValueError, match=match):
            call()
