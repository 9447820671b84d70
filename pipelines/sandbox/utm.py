"""Universal Transverse Mercator on WGS 84, as Krueger's series to third order (better than a millimetre).

Source: Karney (2011), Transverse Mercator with an accuracy of a few nanometers, equations 7 to 11, 35 and 36.
"""

import math

import numba
import numpy as np
from numpy.typing import NDArray

_FLATTENING = 1 / 298.257223563
_N = _FLATTENING / (2 - _FLATTENING)
_ECCENTRICITY = math.sqrt(_FLATTENING * (2 - _FLATTENING))
SCALED_RADIUS_M = 0.9996 * 6378137.0 / (1 + _N) * (1 + _N**2 / 4 + _N**4 / 64)
"""Central scale times the rectifying radius of WGS 84, metres."""
FALSE_EASTING_M = 500_000.0
FALSE_NORTHING_SOUTH_M = 10_000_000.0

_ALPHA = (
    _N / 2 - 2 * _N**2 / 3 + 5 * _N**3 / 16,
    13 * _N**2 / 48 - 3 * _N**3 / 5,
    61 * _N**3 / 240,
)
_BETA = (
    _N / 2 - 2 * _N**2 / 3 + 37 * _N**3 / 96,
    _N**2 / 48 + _N**3 / 15,
    17 * _N**3 / 480,
)
_DELTA = (2 * _N - 2 * _N**2 / 3 - 2 * _N**3, 7 * _N**2 / 3 - 8 * _N**3 / 5, 56 * _N**3 / 15)


def central_meridian_deg(zone: int) -> float:
    """Longitude of the middle of a UTM zone (1 to 60)."""
    return 6.0 * zone - 183.0


def to_utm(lonlat_deg: NDArray[np.float64], zone: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Easting and northing in metres, northing signed from the equator (no false northing)."""
    lonlat = np.asarray(lonlat_deg, dtype=np.float64)
    lam = np.radians((lonlat[..., 0] - central_meridian_deg(zone) + 180.0) % 360.0 - 180.0)
    sin_phi = np.sin(np.radians(lonlat[..., 1]))
    with np.errstate(divide="ignore"):
        tan_chi = np.sinh(np.arctanh(sin_phi) - _ECCENTRICITY * np.arctanh(_ECCENTRICITY * sin_phi))
    xi0 = np.arctan2(tan_chi, np.cos(lam))
    eta0 = np.arcsinh(np.sin(lam) / np.hypot(tan_chi, np.cos(lam)))
    xi, eta = xi0.copy(), eta0.copy()
    for j, alpha in enumerate(_ALPHA, start=1):
        xi += alpha * np.sin(2 * j * xi0) * np.cosh(2 * j * eta0)
        eta += alpha * np.cos(2 * j * xi0) * np.sinh(2 * j * eta0)
    return FALSE_EASTING_M + SCALED_RADIUS_M * eta, SCALED_RADIUS_M * xi


@numba.njit(nogil=True, cache=True, fastmath=False)
def utm_to_lonlat(x_m: float, signed_y_m: float, meridian_rad: float) -> tuple[float, float]:
    """Longitude and latitude in radians (longitude not wrapped) of one point; northing signed from the equator."""
    xi = signed_y_m / SCALED_RADIUS_M
    eta = (x_m - FALSE_EASTING_M) / SCALED_RADIUS_M
    xi0 = xi
    eta0 = eta
    for j in range(3):
        k = 2.0 * (j + 1)
        xi0 -= _BETA[j] * math.sin(k * xi) * math.cosh(k * eta)
        eta0 -= _BETA[j] * math.cos(k * xi) * math.sinh(k * eta)
    chi = math.asin(math.sin(xi0) / math.cosh(eta0))
    latitude = chi
    for j in range(3):
        latitude += _DELTA[j] * math.sin(2.0 * (j + 1) * chi)
    return meridian_rad + math.atan2(math.sinh(eta0), math.cos(xi0)), latitude


def from_utm(x_m: NDArray[np.float64], signed_y_m: NDArray[np.float64], zone: int) -> NDArray[np.float64]:
    """Longitude and latitude in degrees, shape (..., 2); longitudes continue past 180 at the antimeridian."""
    xi = np.asarray(signed_y_m, dtype=np.float64) / SCALED_RADIUS_M
    eta = (np.asarray(x_m, dtype=np.float64) - FALSE_EASTING_M) / SCALED_RADIUS_M
    xi0, eta0 = xi.copy(), eta.copy()
    for j, beta in enumerate(_BETA, start=1):
        xi0 -= beta * np.sin(2 * j * xi) * np.cosh(2 * j * eta)
        eta0 -= beta * np.cos(2 * j * xi) * np.sinh(2 * j * eta)
    chi = np.arcsin(np.sin(xi0) / np.cosh(eta0))
    latitude = chi.copy()
    for j, delta in enumerate(_DELTA, start=1):
        latitude += delta * np.sin(2 * j * chi)
    longitude = np.degrees(np.arctan2(np.sinh(eta0), np.cos(xi0))) + central_meridian_deg(zone)
    return np.stack([longitude, np.degrees(latitude)], axis=-1)
