"""Real spherical harmonics of longitude and latitude."""

import math
from dataclasses import dataclass
from typing import Final

import torch
from jaxtyping import Float
from torch import Tensor, nn

from satclip_model.config import HarmonicsConvention
from satclip_model.positional_encoding.lonlat import validate_lonlat_deg

MAX_NUM_DEGREES: Final = 1000
"""Beyond it the sectoral terms leave the range of float64 while their column is still needed."""

_BLOCK_POINTS: Final = 2048
"""Points whose current degrees stay in the cores' caches together."""

NEGLIGIBLE: Final = {torch.float32: 1e-30, torch.float64: 0.0}
"""Functions that begin below it become zero: no sum of the type feels them, and subnormal numbers are slow."""


@dataclass(frozen=True)
class HarmonicsFrame:
    """Where the angles of a convention start, and how its terms of order 0 are scaled.

    Attributes:
        polar_sign: Cosine of the polar angle over the sine of the latitude.
        azimuth_offset_deg: Azimuth less longitude.
        zonal_factor: Functions of order 0 over the orthonormal ones.
    """

    polar_sign: float
    azimuth_offset_deg: float
    zonal_factor: float


_FRAMES: Final = {
    "orthonormal": HarmonicsFrame(1.0, 0.0, 1.0),
    "analytic": HarmonicsFrame(-1.0, 180.0, math.pi),
    "closed-form": HarmonicsFrame(-1.0, 0.0, 1.0),
}


def real_spherical_harmonics(
    lonlat_deg: Float[Tensor, "batch 2"], num_degrees: int, convention: HarmonicsConvention = "orthonormal"
) -> Float[Tensor, "batch basis"]:
    """Real spherical harmonics at the given directions.

    Column ``l*l + l + m`` is degree l, order m, for l = 0 .. ``num_degrees`` - 1; m > 0 goes with cos(m lon), m < 0
    with sin(|m| lon). Computed in float64 and returned in it; differentiable, exact at the poles, and equal at
    longitudes that differ by 360 degrees.

    Args:
        lonlat_deg: Longitude and latitude in degrees, longitude first.
        num_degrees: Number of degrees L; the basis has L*L columns.
        convention: ``orthonormal``: the integral of Y_lm**2 over the unit sphere is 1, hence
            sum_m Y_lm**2 = (2l + 1) / 4pi everywhere; no Condon-Shortley phase. ``analytic``: the basis of the released
            SatCLIP weights, that is the same functions of azimuth lon + 180 and polar angle lat + 90, with the terms
            of order 0 multiplied by pi. ``closed-form``: orthonormal functions of the same two angles with the
            Condon-Shortley phase (-1)**m, which undoes the 180 degrees of the azimuth.

    Raises:
        ValueError: ``num_degrees`` outside [1, 1000], another convention or shape, a latitude outside [-90, 90], or a
            coordinate that is not finite.

    Source: Holmes and Featherstone (2002), A unified approach to the Clenshaw summation and the recursive computation
        of very high degree and order normalised associated Legendre functions, J. Geodesy 76, eqs. 11 to 13.
    """
    module = SphericalHarmonics(num_degrees, convention).to(lonlat_deg.device)
    basis: Tensor = module(lonlat_deg)
    return basis


class SphericalHarmonics(nn.Module):
    """`real_spherical_harmonics` as a module without parameters.

    Function (l, m) is a product N_l|m|(latitude) * T_m(longitude): normalised associated Legendre functions and
    a Fourier basis. For given m both rows of order m and -m obey the recurrence of N in l, so that the products are
    computed as wholes, beginning at l = |m|.

    Args:
        num_degrees: Number of degrees L.
        convention: ``orthonormal``, ``analytic`` or ``closed-form``.

    Attributes:
        compute_dtype: Type that the recurrence runs in and `forward` returns. float32 costs digits and is meant for
            training; angles, sines and cosines are of float64 all the same.

    Raises:
        ValueError: ``num_degrees`` outside [1, 1000], or another convention.
    """

    def __init__(self, num_degrees: int, convention: HarmonicsConvention = "orthonormal") -> None:
        super().__init__()
        if not 1 <= num_degrees <= MAX_NUM_DEGREES:
            raise ValueError(f"num_degrees is {num_degrees}; expected 1 to {MAX_NUM_DEGREES}")
        if convention not in _FRAMES:
            raise ValueError(f"convention is {convention!r}; expected one of {', '.join(_FRAMES)}")
        self.num_degrees = num_degrees
        self.convention: HarmonicsConvention = convention
        self.frame = _FRAMES[convention]
        self.compute_dtype = torch.float64
        exact = [_recurrence_coefficients(each) for each in range(1, num_degrees)]
        # Not buffers: float() of a network above must not round them.
        self._coefficients = {(torch.device("cpu"), torch.float64): exact}
        self._replays = _Replays()

    @property
    def encoding_dim(self) -> int:
        """Number of columns, L*L."""
        return self.num_degrees**2

    def forward(self, lonlat_deg: Float[Tensor, "batch 2"]) -> Float[Tensor, "batch basis"]:
        """The basis at ``lonlat_deg`` (degrees, longitude first), in ``compute_dtype``.

        Raises:
            ValueError: Another shape, a latitude outside [-90, 90] or a coordinate that is not finite; compiled code
                does not check.
        """
        if torch.compiler.is_compiling():
            return self.traceable(lonlat_deg)
        validate_lonlat_deg(lonlat_deg)
        if lonlat_deg.requires_grad and torch.is_grad_enabled():
            return self.traceable(lonlat_deg)
        if lonlat_deg.is_cuda:
            return self._replayed(lonlat_deg)
        basis = lonlat_deg.new_empty(self.encoding_dim, len(lonlat_deg), dtype=self.compute_dtype)
        blocks = zip(torch.split(lonlat_deg, _BLOCK_POINTS), torch.split(basis, _BLOCK_POINTS, dim=1), strict=True)
        for places, out in blocks:
            self.writer(out).write(places)
        return basis.T

    def _replayed(self, lonlat_deg: Float[Tensor, "batch 2"]) -> Float[Tensor, "batch basis"]:
        key = lonlat_deg.device, len(lonlat_deg), self.compute_dtype
        if key not in self._replays.writers:
            out = lonlat_deg.new_empty(self.encoding_dim, len(lonlat_deg), dtype=self.compute_dtype)
            self._replays.writers = {key: self.writer(out)}
        return self._replays.writers[key].write(lonlat_deg).clone().T

    def traceable(self, lonlat_deg: Float[Tensor, "batch 2"]) -> Float[Tensor, "batch basis"]:
        """The basis without checks and in-place operations, for automatic differentiation, compilers and export."""
        cos_polar, sectoral = (each.to(self.compute_dtype) for each in self.starts(lonlat_deg, 0.0))
        degrees = [torch.full_like(cos_polar, self.monopole)[None]]
        for degree, (gain, gain_ratio, _) in enumerate(self.coefficients_on(lonlat_deg.device), start=1):
            inner = gain * (cos_polar * degrees[-1])
            if degree > 1:
                inner = inner - nn.functional.pad(gain_ratio * degrees[-2], (0, 0, 1, 1))
            sine, cosine = sectoral[degree - 1]
            degrees.append(torch.cat([sine[None], inner, cosine[None]]))
        return torch.cat(degrees).T

    def writer(self, out: Float[Tensor, "basis batch"]) -> "HarmonicsWriter":
        """What writes the basis of places, one row per function, into ``out`` (float32 or float64)."""
        return HarmonicsWriter(self, out)

    def legendre(self, lat_deg: Float[Tensor, " row"], dtype: torch.dtype) -> Float[Tensor, "basis row"]:
        """The latitude factors N_l|m|, one row per function (l, m); `fourier` holds the other factors."""
        meridian = torch.stack([torch.full_like(lat_deg, -self.frame.azimuth_offset_deg), lat_deg], dim=1)
        functions: Tensor = self(meridian.double()).T
        functions = torch.where(functions.abs() < NEGLIGIBLE[dtype], 0.0, functions).to(dtype)
        orders = function_orders(self.num_degrees).to(lat_deg.device)
        cosine_rows = torch.arange(len(functions), device=lat_deg.device) + torch.where(orders < 0, -2 * orders, 0)
        return functions[cosine_rows]

    def fourier(self, lon_deg: Float[Tensor, " column"]) -> Float[Tensor, "order column"]:
        """The longitude factors T_m of order -(L-1) .. L-1: sin(abs(m) azimuth), 1, cos(m azimuth), float64."""
        azimuth = self._azimuth(lon_deg.double())
        angles = torch.arange(1, self.num_degrees, dtype=torch.float64, device=lon_deg.device)[:, None] * azimuth
        return torch.cat([torch.sin(angles).flip(0), torch.ones_like(azimuth)[None], torch.cos(angles)])

    @property
    def monopole(self) -> float:
        """The constant function of degree 0."""
        return self.frame.zonal_factor * math.sqrt(0.25 / math.pi)

    def _azimuth(self, lon_deg: Tensor) -> Tensor:
        return torch.deg2rad(torch.remainder(lon_deg + self.frame.azimuth_offset_deg, 360.0))

    def coefficients_on(self, device: torch.device) -> list[tuple[Tensor, Tensor, Tensor]]:
        """Factors of the recurrence for degree 1 and on, in ``compute_dtype``; see `_recurrence_coefficients`."""
        key = device, self.compute_dtype
        if key not in self._coefficients:
            exact = self._coefficients[torch.device("cpu"), torch.float64]
            self._coefficients[key] = [(a.to(*key), b.to(*key), c.to(*key)) for a, b, c in exact]
        return self._coefficients[key]

    def starts(
        self, lonlat_deg: Float[Tensor, "batch 2"], negligible: float
    ) -> tuple[Float[Tensor, " batch"], Float[Tensor, "degree 2 batch"]]:
        """What the recurrence begins with.

        Args:
            lonlat_deg: Longitude and latitude in degrees, longitude first.
            negligible: Sectoral functions whose latitude factor is below become zero.

        Returns:
            Cosine of the polar angle; the functions (l, -l) and (l, l) for l = 1 .. L - 1.
        """
        lon_deg, lat_deg = lonlat_deg.double().unbind(dim=1)
        cos_polar = self.frame.polar_sign * torch.sin(torch.deg2rad(lat_deg))
        sin_polar = torch.sin(torch.deg2rad(90.0 - lat_deg.abs()))
        powers = sin_polar[None][: self.num_degrees - 1]
        while len(powers) < self.num_degrees - 1:
            powers = torch.cat([powers, powers * powers[-1:]])[: self.num_degrees - 1]
        degrees = torch.arange(1, self.num_degrees, dtype=torch.float64, device=lonlat_deg.device)[:, None]
        latitude_part = _sectoral_norms(degrees) * powers
        if negligible > 0.0:
            latitude_part = nn.functional.threshold(latitude_part, negligible, 0.0)
        angles = degrees * self._azimuth(lon_deg)
        return cos_polar, torch.stack([torch.sin(angles), torch.cos(angles)], dim=1) * latitude_part[:, None]


class HarmonicsWriter:
    """Writes bases of as many places as a buffer has columns into it, over and over.

    The recurrence runs in the functions' ``compute_dtype`` whatever the type of the buffer. Two levels, one for even
    degrees and one for odd, hold order m in row m + L - 1, and each degree overwrites the one two below.

    On a GPU the launches of all degrees are recorded at the second call and replayed from the third on: they are small,
    and take several times as long to launch as to run.

    Args:
        harmonics: The functions.
        out: The buffer, float32 or float64.
    """

    def __init__(self, harmonics: SphericalHarmonics, out: Float[Tensor, "basis batch"]) -> None:
        self._harmonics, self._out = harmonics, out
        self._graph: torch.cuda.CUDAGraph | None = None
        self._places: Tensor | None = None
        middle = harmonics.num_degrees - 1
        levels = out.new_zeros(2, 2 * middle + 1, out.shape[1], dtype=harmonics.compute_dtype)
        self._lowest = levels[0, middle]
        self._steps = []
        for degree, (gain, _, factor) in enumerate(harmonics.coefficients_on(out.device), start=1):
            level, below = levels[degree % 2], levels[(degree - 1) % 2]
            inner = slice(middle - degree + 1, middle + degree)
            ends = level[middle - degree : middle + degree + 1 : 2 * degree]
            whole, target = level[middle - degree : middle + degree + 1], out[degree**2 : (degree + 1) ** 2]
            self._steps.append((level[inner], factor, below[inner], gain, ends, whole, target))

    @torch.no_grad()
    def write(self, lonlat_deg: Float[Tensor, "batch 2"]) -> Float[Tensor, "basis batch"]:
        """Fills the buffer with the basis at ``lonlat_deg`` (degrees, longitude first), unchecked, and gives it."""
        if not self._out.is_cuda:
            self._compute(lonlat_deg)
        elif self._places is None:
            self._compute(lonlat_deg)
            self._places = lonlat_deg.double().clone()
        else:
            self._places.copy_(lonlat_deg)
            self._graph = self._graph or self._record(self._places)
            self._graph.replay()
        return self._out

    def _record(self, places: Tensor) -> torch.cuda.CUDAGraph:
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.device(places.device), torch.cuda.graph(graph, capture_error_mode="thread_local"):
            self._compute(places)
        return graph

    def _compute(self, lonlat_deg: Tensor) -> None:
        negligible = max(NEGLIGIBLE[self._out.dtype], NEGLIGIBLE[self._harmonics.compute_dtype])
        cos_polar, sectoral = self._harmonics.starts(lonlat_deg, negligible)
        cos_polar = cos_polar.to(self._harmonics.compute_dtype)
        self._lowest.fill_(self._harmonics.monopole)
        self._out[0] = self._harmonics.monopole
        for (inner, factor, below, gain, ends, whole, target), pair in zip(self._steps, sectoral, strict=True):
            inner.mul_(factor).addcmul_(below, cos_polar).mul_(gain)
            ends.copy_(pair)
            target.copy_(whole)


class _Replays:
    """The last buffer that a GPU wrote into; copies of a module, which are not to share it, begin without."""

    def __init__(self) -> None:
        self.writers: dict[tuple[torch.device, int, torch.dtype], HarmonicsWriter] = {}

    def __deepcopy__(self, memo: object) -> "_Replays":
        return _Replays()

    def __reduce__(self) -> tuple[type["_Replays"], tuple[()]]:
        return _Replays, ()


def function_orders(num_degrees: int) -> Tensor:
    """Order m of every column of the basis, shape (L*L,), int64."""
    return torch.cat([torch.arange(-degree, degree + 1) for degree in range(num_degrees)])


def _sectoral_norms(degrees: Float[Tensor, "degree 1"]) -> Float[Tensor, "degree 1"]:
    """Factors of sin(polar)**l in N_ll for consecutive degrees from 1 on."""
    return torch.cumprod(torch.sqrt((2.0 * degrees + 1.0) / (2.0 * degrees)), dim=0) * math.sqrt(0.5 / math.pi)


def _recurrence_coefficients(degree: int) -> tuple[Tensor, Tensor, Tensor]:
    """Factors in N_l = gain cos(polar) N_(l-1) - gain_ratio N_(l-2) = gain (cos(polar) N_(l-1) + factor N_(l-2)).

    Gain and factor are of order -(l-1) .. l-1, gain_ratio of order -(l-2) .. l-2.
    """
    order = torch.arange(1 - degree, degree, dtype=torch.float64)[:, None]
    gain = torch.sqrt((4.0 * degree**2 - 1.0) / (degree**2 - order**2))
    if degree == 1:
        return gain, gain[:0], torch.zeros_like(gain)
    inner = order[1:-1]
    ratio = torch.sqrt(((degree - 1.0) ** 2 - inner**2) / (4.0 * (degree - 1.0) ** 2 - 1.0))
    gain_ratio = gain[1:-1] * ratio
    return gain, gain_ratio, nn.functional.pad(-gain_ratio, (0, 0, 1, 1)) / gain
