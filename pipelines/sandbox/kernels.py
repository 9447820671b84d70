"""Compiled loops of the sandbox. One module, so that the compiler's cache on disk sees every change.

A lattice is a regular grid of points over a block of pixels; planes are pixels. Positions are geographic: the noise
lives in three dimensions on the sphere, therefore it has no seam between tiles, zones or at the poles.
"""

import math
from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray

from pipelines.sandbox.land_raster import CELL_DEG
from pipelines.sandbox.utm import utm_to_lonlat

EARTH_RADIUS_M = 6_371_000.0
GRID_STEP_DEG = 0.25
NUM_GRID_FIELDS = 5
TEXTURE_WAVELENGTH_M = 500.0
SUNWARD_EAST_M, SUNWARD_POLEWARD_M = 500.0, 1_000.0
"""Way from a point towards the sun at the height of the clouds; the sun stands in the south-east, or north-east."""

ELEVATION, TEMPERATURE, MOISTURE, BIOME, LAND_COVER, LANDNESS, VEGETATION, TEXTURE, LATITUDE = range(9)
NUM_FIELDS = 9
"""Rows of a field lattice: metres, deg C, standard deviations, class, class, land minus sea (land > 0),
vegetation in 0 to 1, noise, radians."""

CLOUD, SHADOW, SWATH = range(3)
"""Rows of a sky lattice: optical depth, that between the point and the sun, sine of the cross-track angle."""

_F, _U = np.float32, np.uint32
_X, _Y, _Z = np.uint32(0x9E3779B1), np.uint32(0x85EBCA77), np.uint32(0xC2B2AE3D)
_MIX_1, _MIX_2 = np.uint32(0x2C1B3C6D), np.uint32(0x297A2D39)
MEDIUM_DEPTH, HIGH_DEPTH, SHADOW_DEPTH = np.float32(0.35), np.float32(1.1), np.float32(0.35)
"""Optical depths from which a cloud is of medium and high probability (thin cirrus below) and casts a shadow."""
SHORE_RAGGEDNESS = np.float32(0.03)
_S1, _S2 = np.uint32(15), np.uint32(13)
_NOISE_SCALE = np.float32(2.705 / 2147483648.0)
"""Value noise with cubic weights between uniform corners has a standard deviation of 0.370."""

Array = NDArray[Any]
"""An array as a kernel takes it; the compiler specialises on its type."""
type Scalar = Any
Floats = NDArray[np.float32]


@numba.njit(nogil=True, cache=True, inline="always")
def _corner(mixed: Scalar) -> Scalar:
    mixed ^= mixed >> _S1
    mixed *= _MIX_1
    mixed ^= mixed >> _S2
    mixed *= _MIX_2
    return _F(np.int32(mixed))


@numba.njit(nogil=True, cache=True, error_model="numpy")
def add_noise(
    x: NDArray[np.float64],
    y: NDArray[np.float64],
    z: NDArray[np.float64],
    scale: float,
    shift: NDArray[np.float64],
    weight: np.float32,
    salt: np.uint32,
    out: Array,
) -> None:
    """Adds weight times smooth noise of zero mean, unit variance and one feature per 1 / scale to ``out``, in place.

    The loop has no calls and no branches, so that the compiler turns it into vector instructions.
    """
    for j in range(out.shape[0]):
        px, py, pz = x[j] * scale + shift[0], y[j] * scale + shift[1], z[j] * scale + shift[2]
        fx, fy, fz = np.floor(px), np.floor(py), np.floor(pz)
        a = _U(np.int32(fx)) * _X + _U(np.int32(fy)) * _Y + _U(np.int32(fz)) * _Z + salt
        tx, ty, tz = _F(px - fx), _F(py - fy), _F(pz - fz)
        tx = tx * tx * (_F(3) - _F(2) * tx)
        ty = ty * ty * (_F(3) - _F(2) * ty)
        tz = tz * tz * (_F(3) - _F(2) * tz)
        c000, c100, c010, c110 = _corner(a), _corner(a + _X), _corner(a + _Y), _corner(a + _X + _Y)
        a += _Z
        c001, c101, c011, c111 = _corner(a), _corner(a + _X), _corner(a + _Y), _corner(a + _X + _Y)
        c00, c10 = c000 + (c100 - c000) * tx, c010 + (c110 - c010) * tx
        c01, c11 = c001 + (c101 - c001) * tx, c011 + (c111 - c011) * tx
        c0, c1 = c00 + (c10 - c00) * ty, c01 + (c11 - c01) * ty
        out[j] += weight * _NOISE_SCALE * (c0 + (c1 - c0) * tz)


@numba.njit(nogil=True, cache=True)
def unit_vectors(lonlat_rad: NDArray[np.float64]) -> NDArray[np.float64]:
    """Positions on the unit sphere, shape (3, n), of longitudes and latitudes (n, 2)."""
    out = np.empty((3, lonlat_rad.shape[0]), dtype=np.float64)
    for i in range(lonlat_rad.shape[0]):
        lon, lat = lonlat_rad[i, 0], lonlat_rad[i, 1]
        out[0, i] = math.cos(lat) * math.cos(lon)
        out[1, i] = math.cos(lat) * math.sin(lon)
        out[2, i] = math.sin(lat)
    return out


@numba.njit(nogil=True, cache=True, error_model="numpy")
def _expand(top: Array, bottom: Array, share: Scalar, step: int, out: Array) -> None:
    """Values at the pixels of one row between two rows of a lattice; a pixel's value is that of its centre."""
    for c in range(out.shape[0] // step):
        left = top[c] + (bottom[c] - top[c]) * share
        slope = (top[c + 1] + (bottom[c + 1] - top[c + 1]) * share - left) / step
        for j in range(step):
            out[c * step + j] = left + slope * (j + 0.5)


@numba.njit(nogil=True, cache=True)
def _landness(lon_deg: float, lat_deg: float, land: NDArray[np.uint8]) -> Scalar:
    rows, cols = land.shape
    row = (90.0 - lat_deg) / CELL_DEG - 0.5
    col = (lon_deg + 180.0) / CELL_DEG - 0.5
    r0, c0 = math.floor(row), math.floor(col)
    tr, tc = row - r0, col - c0
    ra, rb = min(max(int(r0), 0), rows - 1), min(max(int(r0) + 1, 0), rows - 1)
    ca, cb = int(c0) % cols, (int(c0) + 1) % cols
    top = land[ra, ca] * (1 - tc) + land[ra, cb] * tc
    bottom = land[rb, ca] * (1 - tc) + land[rb, cb] * tc
    return top * (1 - tr) + bottom * tr - 0.5


@numba.njit(nogil=True, cache=True)
def _biome(temperature_c: float, moisture: float, elevation_m: float) -> int:
    if temperature_c < -9.0:
        return 0
    if temperature_c < 0.5 or elevation_m > 3300.0:
        return 1
    if moisture < -0.75:
        return 2
    if temperature_c < 9.0:
        return 3
    if temperature_c < 18.5:
        return 4 if moisture < 0.2 else 5
    return 6 if moisture < 0.35 else 7


@numba.njit(nogil=True, cache=True)
def _land_cover(greenness: float, structure: float) -> int:
    if greenness < -0.75:
        return 0 if structure < 0.6 else 1
    if greenness < 0.0:
        return 1 if structure > 0.0 else 2
    if greenness < 0.65:
        return 3 if structure > -0.1 else 2
    return 4 if structure < 0.5 else 5


@numba.njit(nogil=True, cache=True)
def fields_at(
    lonlat_rad: NDArray[np.float64],
    grids: Array,
    land: NDArray[np.uint8],
    wavelengths_m: Array,
    fine_weights: Array,
    salts: NDArray[np.uint32],
) -> Floats:
    """Fields at points (n, 2), shape (fields, n): grids give the smooth part, octaves of noise the fine one."""
    count = lonlat_rad.shape[0]
    xyz = unit_vectors(lonlat_rad)
    still = np.zeros(3, dtype=np.float64)
    parts = np.empty((NUM_GRID_FIELDS, count), dtype=np.float32)
    out = np.zeros((NUM_FIELDS, count), dtype=np.float32)
    for i in range(count):
        lon_deg, lat_deg = math.degrees(lonlat_rad[i, 0]), math.degrees(lonlat_rad[i, 1])
        lon_deg -= 360.0 * math.floor((lon_deg + 180.0) / 360.0)
        row, col = (90.0 - lat_deg) / GRID_STEP_DEG, (lon_deg + 180.0) / GRID_STEP_DEG
        r, c = min(int(row), grids.shape[1] - 2), min(int(col), grids.shape[2] - 2)
        tr, tc = row - r, col - c
        a, b, d, e = (1 - tr) * (1 - tc), (1 - tr) * tc, tr * (1 - tc), tr * tc
        for k in range(NUM_GRID_FIELDS):
            parts[k, i] = (
                a * grids[k, r, c] + b * grids[k, r, c + 1] + d * grids[k, r + 1, c] + e * grids[k, r + 1, c + 1]
            )
        out[LANDNESS, i] = _landness(lon_deg, lat_deg, land)
    for k in range(NUM_GRID_FIELDS):
        for octave in range(wavelengths_m.shape[1]):
            salt = salts[k] + _U(octave + 1) * _MIX_1
            scale = EARTH_RADIUS_M / wavelengths_m[k, octave]
            add_noise(xyz[0], xyz[1], xyz[2], scale, still, fine_weights[k, octave], salt, parts[k])
    scale = EARTH_RADIUS_M / TEXTURE_WAVELENGTH_M
    add_noise(xyz[0], xyz[1], xyz[2], scale, still, _F(1.0), salts[NUM_GRID_FIELDS], out[TEXTURE])
    for i in range(count):
        metres = 1300.0 + 900.0 * parts[0, i]
        metres = metres if metres > 3000.0 else 250.0 * math.log1p(math.exp(metres / 250.0))
        celsius = 9.0 + 12.5 * parts[1, i] - 5.0e-3 * (metres - 1300.0)
        moisture, structure = parts[2, i], parts[4, i]
        greenness = 0.65 * parts[3, i] + 0.6 * moisture
        out[ELEVATION, i], out[TEMPERATURE, i], out[MOISTURE, i] = metres, celsius, moisture
        out[BIOME, i], out[LAND_COVER, i] = _biome(celsius, moisture, metres), _land_cover(greenness, structure)
        out[VEGETATION, i] = 1.0 / (1.0 + math.exp(-1.6 * greenness - 0.4))
        out[LATITUDE, i] = lonlat_rad[i, 1]
    return out


@numba.njit(nogil=True, cache=True)
def position_lattice(
    x_m: float, signed_y_m: float, spacing_m: float, count: int, meridian_rad: float
) -> NDArray[np.float64]:
    """Longitudes and latitudes (radians) of count x count points, row by row from the top, shape (count * count, 2)."""
    out = np.empty((count * count, 2), dtype=np.float64)
    for i in range(count):
        for j in range(count):
            k = i * count + j
            out[k, 0], out[k, 1] = utm_to_lonlat(x_m + spacing_m * j, signed_y_m - spacing_m * i, meridian_rad)
    return out


@numba.njit(nogil=True, cache=True)
def texture_plane(
    lonlat_rad: NDArray[np.float64], count: int, step: int, size: int, wavelength_m: float, salt: np.uint32
) -> Floats:
    """Noise of unit variance at every pixel centre, shape (size, size).

    The positions are interpolated between those of a count x count lattice with ``step`` pixels per cell;
    they are 1 cm off in cells of 640 m.
    """
    corners = unit_vectors(lonlat_rad)
    row = np.empty((3, size), dtype=np.float64)
    still = np.zeros(3, dtype=np.float64)
    out = np.zeros((size, size), dtype=np.float32)
    for i in range(size):
        r = i // step
        t = (i - r * step + 0.5) / step
        for k in range(3):
            _expand(
                corners[k, r * count : (r + 1) * count], corners[k, (r + 1) * count : (r + 2) * count], t, step, row[k]
            )
        add_noise(row[0], row[1], row[2], EARTH_RADIUS_M / wavelength_m, still, _F(1.0), salt, out[i])
    return out


@numba.njit(nogil=True, cache=True)
def _add_clouds(
    xyz: NDArray[np.float64],
    days: float,
    wavelengths_m: Array,
    weights: Array,
    drift: Array,
    salt: np.uint32,
    out: Array,
) -> None:
    shift = np.empty(3, dtype=np.float64)
    for i in range(wavelengths_m.shape[0]):
        for k in range(3):
            shift[k] = drift[i, k] * days / wavelengths_m[i]
        scale = EARTH_RADIUS_M / wavelengths_m[i]
        add_noise(xyz[0], xyz[1], xyz[2], scale, shift, weights[i], salt + _U(i + 1) * _MIX_1, out)


@numba.njit(nogil=True, cache=True)
def sky_at(
    lonlat_rad: NDArray[np.float64],
    days: float,
    swath_normal: NDArray[np.float64],
    wavelengths_m: Array,
    weights: Array,
    drift: Array,
    salt: np.uint32,
) -> Floats:
    """Cloud, shadow and cross-track position at points (n, 2) at one time (days since 2021), shape (3, n)."""
    count = lonlat_rad.shape[0]
    xyz = unit_vectors(lonlat_rad)
    sunward = np.empty_like(xyz)
    threshold = np.empty(count, dtype=np.float32)
    out = np.zeros((3, count), dtype=np.float32)
    for i in range(count):
        lon, lat = lonlat_rad[i, 0], lonlat_rad[i, 1]
        east = SUNWARD_EAST_M / EARTH_RADIUS_M
        north = (-SUNWARD_POLEWARD_M if lat > 0 else SUNWARD_POLEWARD_M) / EARTH_RADIUS_M
        sunward[0, i] = xyz[0, i] - east * math.sin(lon) - north * math.sin(lat) * math.cos(lon)
        sunward[1, i] = xyz[1, i] + east * math.cos(lon) - north * math.sin(lat) * math.sin(lon)
        sunward[2, i] = xyz[2, i] + north * math.cos(lat)
        lat_deg = abs(math.degrees(lat))
        share = 0.40 + 0.22 * math.exp(-((lat_deg / 11.0) ** 2)) - 0.16 * math.exp(-(((lat_deg - 25.0) / 9.0) ** 2))
        threshold[i] = 2.6 * (share - 0.5)
        out[SWATH, i] = xyz[0, i] * swath_normal[0] + xyz[1, i] * swath_normal[1] + xyz[2, i] * swath_normal[2]
    _add_clouds(xyz, days, wavelengths_m, weights, drift, salt, out[CLOUD])
    _add_clouds(sunward, days, wavelengths_m, weights, drift, salt, out[SHADOW])
    for i in range(count):
        out[CLOUD, i] = max(_F(0), _F(4) * (out[CLOUD, i] + threshold[i]))
        out[SHADOW, i] = max(_F(0), _F(4) * (out[SHADOW, i] + threshold[i]))
    return out


@numba.njit(nogil=True, cache=True)
def snow_share(temperature_c: Scalar, lat: Scalar, season: float) -> Scalar:
    """Share of snow in 0 to 1; season is +1 in July and -1 in January."""
    return 1.0 / (1.0 + math.exp((temperature_c + 4.0 + 2.5 * season * math.tanh(2.5 * lat)) / 1.5))


@numba.njit(nogil=True, cache=True)
def reflectance_lattice(
    fields: Array,
    season: float,
    endmembers: Array,
    signatures: Array,
    biome_gain: Array,
    cover_gain: Array,
    cover_green: Array,
    roughness: Array,
) -> Floats:
    """One band's land and water reflectance and its two roughnesses on a lattice, shape (4, rows, cols).

    ``endmembers`` are soil, vegetation, snow and water; ``signatures`` the band's log gains per standard deviation of
    elevation, temperature, moisture and vegetation; ``roughness`` per land cover (classes, 2).
    """
    rows, cols = fields.shape[1:]
    out = np.empty((4, rows, cols), dtype=np.float32)
    for i in range(rows):
        for j in range(cols):
            biome, cover = int(fields[BIOME, i, j]), int(fields[LAND_COVER, i, j])
            temperature, lat = fields[TEMPERATURE, i, j], fields[LATITUDE, i, j]
            green = 0.5 * cover_green[cover] + 0.5 * fields[VEGETATION, i, j]
            green *= 1.0 + 0.10 * season * math.tanh(2.5 * lat)
            green = min(max(green, 0.0), 1.0)
            snow = 0.75 * snow_share(temperature, lat, season)
            surface = (1 - green) * endmembers[0] + green * endmembers[1]
            surface = (1 - snow) * surface + snow * endmembers[2]
            gain = signatures[0] * (fields[ELEVATION, i, j] - 1300.0) / 900.0
            gain += signatures[1] * (temperature - 9.0) / 13.0
            gain += signatures[2] * fields[MOISTURE, i, j]
            gain += signatures[3] * (fields[VEGETATION, i, j] - 0.5) / 0.25
            gain += biome_gain[biome] + cover_gain[cover]
            out[0, i, j] = surface * math.exp(gain)
            out[1, i, j] = endmembers[3] * (1.0 + 0.012 * (temperature - 9.0))
            out[2, i, j], out[3, i, j] = roughness[cover, 0], roughness[cover, 1]
    return out


@numba.njit(nogil=True, cache=True, error_model="numpy")
def surface_plane(
    lattice: Array, landness: Array, texture: Array, fine: Array, step: int, fine_share: np.float32, out: Array
) -> None:
    """Reflectance of the ground at every pixel of a square block; textures change it by each land cover's roughness."""
    size = out.shape[0]
    row = np.empty((6, size), dtype=np.float32)
    for i in range(size):
        r = i // step
        share = _F((i - r * step + 0.5) / step)
        for k in range(4):
            _expand(lattice[k, r], lattice[k, r + 1], share, step, row[k])
        _expand(landness[r], landness[r + 1], share, step, row[4])
        _expand(texture[r], texture[r + 1], share, step, row[5])
        for j in range(size):
            coarse, small = row[5, j], fine[i, j] * fine_share
            land = row[0, j] * max(_F(0.3), _F(1) + row[2, j] * coarse + row[3, j] * small)
            water = row[1, j] * (_F(1) + _F(0.06) * small)
            out[i, j] = land if row[4, j] + SHORE_RAGGEDNESS * coarse > _F(0) else water


@numba.njit(nogil=True, cache=True, error_model="numpy")
def encode_plane(
    surface: Array,
    sky: Array,
    step: int,
    half_swath: np.float32,
    cloud_reflectance: np.float32,
    offset_dn: int,
    out: NDArray[np.uint16],
) -> None:
    """Clouds, shadows and the swath's edge over a surface, as digital numbers; 0 is nodata and nothing else."""
    size = surface.shape[0]
    overcast = sky[CLOUD].max() > _F(0) or sky[SHADOW].max() > SHADOW_DEPTH
    edge = np.abs(sky[SWATH]).max() > half_swath
    row = np.empty((3, size), dtype=np.float32)
    value = np.empty(size, dtype=np.float32)
    bias = _F(0.5) + _F(offset_dn)
    for i in range(size):
        r = i // step
        share = _F((i - r * step + 0.5) / step)
        value[:] = surface[i]
        if overcast:
            _expand(sky[CLOUD, r], sky[CLOUD, r + 1], share, step, row[0])
            _expand(sky[SHADOW, r], sky[SHADOW, r + 1], share, step, row[1])
            for j in range(size):
                shade = min(max(row[1, j] - SHADOW_DEPTH, _F(0)), _F(0.5))
                shaded = value[j] * (_F(1) - shade)
                value[j] = cloud_reflectance + (shaded - cloud_reflectance) * _F(math.exp(_F(-1.2) * row[0, j]))
        for j in range(size):
            out[i, j] = np.uint16(np.int32(min(max(value[j] * _F(10000) + bias, _F(1)), _F(65535))))
        if edge:
            _expand(sky[SWATH, r], sky[SWATH, r + 1], share, step, row[2])
            for j in range(size):
                if abs(row[2, j]) > half_swath:
                    out[i, j] = 0


@numba.njit(nogil=True, cache=True)
def _ground_class(fields: Array, season: float, cover_green: Array) -> Scalar:
    """Snow 11, vegetation 4 or bare ground 5 by the fields of one point."""
    if snow_share(fields[TEMPERATURE], fields[LATITUDE], season) > 0.5:
        return 11
    return 4 if 0.5 * cover_green[int(fields[LAND_COVER])] + 0.5 * fields[VEGETATION] > 0.45 else 5


@numba.njit(nogil=True, cache=True)
def _seen_class(cloud: Scalar, shadow: Scalar, outside: Scalar, land: Scalar, ground: Scalar) -> Scalar:
    """What the satellite sees of one point: nodata 0, cloud 9, 8 or 10, shadow 3, water 6, or the ground."""
    if outside:
        return 0
    if cloud > 0:
        return 9 if cloud > HIGH_DEPTH else (8 if cloud > MEDIUM_DEPTH else 10)
    if shadow > SHADOW_DEPTH:
        return 3
    return ground if land else 6


@numba.njit(nogil=True, cache=True, error_model="numpy")
def classify_plane(
    fields: Array,
    sky: Array,
    step: int,
    half_swath: np.float32,
    season: float,
    cover_green: Array,
    out: NDArray[np.uint8],
) -> None:
    """Scene classification at every pixel: 0, 3 to 6 and 8 to 11 of Sen2Cor's classes."""
    size = out.shape[0]
    count = fields.shape[1]
    ground = np.empty((count, count), dtype=np.uint8)
    for r in range(count):
        for c in range(count):
            ground[r, c] = _ground_class(fields[:, r, c], season, cover_green)
    row = np.empty((5, size), dtype=np.float32)
    for i in range(size):
        r = i // step
        share = _F((i - r * step + 0.5) / step)
        for k in range(3):
            _expand(sky[k, r], sky[k, r + 1], share, step, row[k])
        _expand(fields[LANDNESS, r], fields[LANDNESS, r + 1], share, step, row[3])
        _expand(fields[TEXTURE, r], fields[TEXTURE, r + 1], share, step, row[4])
        nearest = r + int(share + _F(0.5))
        for c in range(size // step):
            for offset in range(step):
                j = c * step + offset
                out[i, j] = _seen_class(
                    row[CLOUD, j],
                    row[SHADOW, j],
                    abs(row[SWATH, j]) > half_swath,
                    row[3, j] + SHORE_RAGGEDNESS * row[4, j] > 0,
                    ground[nearest, c + (1 if 2 * offset >= step else 0)],
                )


@numba.njit(nogil=True, cache=True)
def classify_points(fields: Array, sky: Array, half_swath: np.float32, season: float, cover_green: Array) -> Array:
    """Scene classes at n points, uint8 (n,), of fields (fields, n) and sky (3, n)."""
    out = np.empty(fields.shape[1], dtype=np.uint8)
    for i in range(out.shape[0]):
        out[i] = _seen_class(
            sky[CLOUD, i],
            sky[SHADOW, i],
            abs(sky[SWATH, i]) > half_swath,
            fields[LANDNESS, i] + SHORE_RAGGEDNESS * fields[TEXTURE, i] > 0,
            _ground_class(fields[:, i], season, cover_green),
        )
    return out


@numba.njit(nogil=True, cache=True)
def ground_code(fields: Array, codes: NDArray[np.uint8], ice_code: int, warm_from_c: float) -> Scalar:
    """Land-cover code of a point on land: ``codes`` by climate (cold, warm) and land cover, ice where the biome is."""
    if fields[BIOME] == 0:
        return ice_code
    return codes[1 if fields[TEMPERATURE] >= warm_from_c else 0, int(fields[LAND_COVER])]


@numba.njit(nogil=True, cache=True, error_model="numpy")
def land_cover_plane(
    fields: Array,
    step: int,
    codes: NDArray[np.uint8],
    ice_code: int,
    water_code: int,
    warm_from_c: float,
    out: NDArray[np.uint8],
) -> None:
    """Land-cover code of every pixel: water exactly where pixels show it, else that of the nearest lattice point."""
    size = out.shape[0]
    count = fields.shape[1]
    ground = np.empty((count, count), dtype=np.uint8)
    for r in range(count):
        for c in range(count):
            ground[r, c] = ground_code(fields[:, r, c], codes, ice_code, warm_from_c)
    row = np.empty((2, size), dtype=np.float32)
    for i in range(size):
        r = i // step
        share = _F((i - r * step + 0.5) / step)
        _expand(fields[LANDNESS, r], fields[LANDNESS, r + 1], share, step, row[0])
        _expand(fields[TEXTURE, r], fields[TEXTURE, r + 1], share, step, row[1])
        nearest = r + int(share + _F(0.5))
        for c in range(size // step):
            for offset in range(step):
                j = c * step + offset
                is_land = row[0, j] + SHORE_RAGGEDNESS * row[1, j] > _F(0)
                out[i, j] = ground[nearest, c + (1 if 2 * offset >= step else 0)] if is_land else water_code
