"""Two pieces of arithmetic that save work on a CPU: short convolutions in fewer products, and Mish in one sigmoid.

* A convolution of 5 taps by Toom-Cook's algorithm (Winograd's; Lavin & Gray 2016, arXiv:1509.09308) takes two products
  for each time step and pair of channels in place of five.
* Mish (Misra 2019, arXiv:1908.08681) takes one sigmoid: with s = sigmoid(-x), mish(x) = -x + 2 x / (1 + s^2).
"""

from dataclasses import dataclass
from functools import cache

import numpy as np
import torch

# Taps of the convolutions, and outputs of a tile.
KERNEL, TILE = 5, 4
# The points of the interpolation. 1 stands first because there the output transform is all ones: what is added to that
# product is added to every output.
_POINTS = (1.0, -1.0, 0.0, 2.0, -2.0, 0.5, -0.5)  # and infinity, last
_RECIPROCAL = (0, 1, 7, 5, 6, 3, 4, 2)  # where 1 / point stands
_DENSE_LENGTH, SPAN_TILES = 32, 4
_GRAIN, _VECTOR = 32768, 32  # the least elements that torch gives a thread, and its step: two AVX-512 vectors
_ONE = torch.ones((), dtype=torch.float32)


@dataclass(frozen=True)
class Transforms:
    """Toom-Cook's matrices for a length: inputs to points, taps to points, products at the points to outputs.

    ``spread`` is (tiles * points, inputs), ``taps`` (points, 5), ``gather`` (outputs of a tile, points). The back
    pair turns the same weights, transposed, into the pullback.
    """

    spread: torch.Tensor
    taps: torch.Tensor
    gather: torch.Tensor
    spread_back: torch.Tensor
    gather_back: torch.Tensor
    spans: int  # 1, or how many windows a long trajectory is cut into


def _powers(points: int, count: int) -> np.ndarray:
    """Return the matrix (points, count) that evaluates a polynomial of so many coefficients at the points."""
    powers = np.zeros((points, count))
    powers[:-1] = np.power.outer(_POINTS[: points - 1], np.arange(count))
    powers[-1, -1] = 1  # infinity: the leading coefficient
    return powers


@cache
def make_transforms(length: int) -> Transforms:
    """Return the matrices for so many time steps."""
    if length <= TILE:
        # The outputs are a Toeplitz matrix (of 2 length - 1 diagonals) times the inputs, hence as many products: the
        # zeros beyond both ends cost nothing. It is symmetric in inputs and outputs, but for their order.
        points, reach = 2 * length - 1, KERNEL // 2
        diagonals = np.linalg.inv(_powers(points, points)).T
        taps = np.zeros((points, KERNEL))
        for tap in range(max(reach - length + 1, 0), min(reach + length, KERNEL)):
            taps[:, tap] = diagonals[:, tap - reach + length - 1]
        spread = _powers(points, length)
        gather = _powers(points, length)[:, ::-1].T
        spread_back, gather_back = gather.T, spread.T
        spans = 1
    else:
        points = TILE + KERNEL - 1
        window = np.linalg.inv(_powers(points, points)).T
        taps, gather = _powers(points, KERNEL), _powers(points, TILE).T
        # Reversed taps, which the pullback needs, are those at 1 / point times point^4: p^4 g(1 / p).
        order = list(_RECIPROCAL)
        scales = np.array([point**4 or 1 for point in _POINTS] + [1])
        gather_back = (gather * scales)[:, order]
        spans = 1 if length <= _DENSE_LENGTH else -(-length // (SPAN_TILES * TILE))
        tiles = -(-length // TILE) if spans == 1 else SPAN_TILES
        both = []
        for matrix in (window, window[order]):
            spread = np.zeros((tiles, points, tiles * TILE + KERNEL - 1))
            for tile in range(tiles):
                spread[tile, :, tile * TILE : tile * TILE + points] = matrix
            spread = spread.reshape(tiles * points, -1)
            both.append(spread if spans > 1 else spread[:, KERNEL // 2 :][:, :length])
        spread, spread_back = both
    tensors = (torch.tensor(matrix.copy()) for matrix in (spread, taps, gather, spread_back, gather_back))
    a, b, c, d, e = tensors
    return Transforms(a.float(), b, c.float(), d.float(), e.float(), spans)


def _sigmoid(z: torch.Tensor) -> torch.Tensor:
    """Return the sigmoid, such that an element's does not depend on where it stands.

    torch gives each thread an equal share of the elements, and rounds those otherwise that do not fill a vector at the
    end of a share: so shares are made whole vectors here.
    """
    workers = min(torch.get_num_threads(), -(-z.numel() // _GRAIN))
    rest = z.numel() % (_VECTOR * workers * max(workers - 1, 1))  # with workers - 1 too: what is left may need no more
    if rest == 0 or workers == 1:
        return torch.sigmoid(z)
    flat = z.as_strided((z.numel(),), (1,))
    s = torch.cat((torch.sigmoid(flat[:-rest]), _sigmoid(flat[-rest:])))
    return s.as_strided(z.shape, z.stride())


def mish(z: torch.Tensor) -> torch.Tensor:
    """Return mish at -z, in the place of z."""
    s = _sigmoid(z)
    torch.addcmul(_ONE, s, s, out=s)
    return z.addcdiv_(z, s, value=-2)


def mish_and_slope(z: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return mish at -z, in the place of z, and k: its derivative by z is 1 - 2 k."""
    s = _sigmoid(z)
    r = torch.addcmul(_ONE, s, s).reciprocal_()
    u = z * r
    z.sub_(u, alpha=2)
    u.addcmul_(u, s, value=-1)
    u.addcmul_(u, r, value=-1)
    return z, r.sub_(u, alpha=2)  # k = r - 2 z r (1 - s) (1 - r)


def pull_back_mish(gradient: torch.Tensor, slope: torch.Tensor) -> torch.Tensor:
    """Return the gradient by z, of the gradient of mish at -z and k."""
    return torch.addcmul(gradient, gradient, slope, value=-2)
