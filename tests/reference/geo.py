"""Plain spherical geometry: haversine, and the nearest place on a line. Obvious, slow, standard library only."""

from __future__ import annotations

import math
from itertools import pairwise

RADIUS_M = 6_371_000.0


def haversine_m(lat_1, lon_1, lat_2, lon_2):
    phi_1, phi_2 = math.radians(lat_1), math.radians(lat_2)
    d_phi, d_lambda = math.radians(lat_2 - lat_1), math.radians(lon_2 - lon_1)
    h = math.sin(d_phi / 2) ** 2 + math.cos(phi_1) * math.cos(phi_2) * math.sin(d_lambda / 2) ** 2
    return 2 * RADIUS_M * math.asin(math.sqrt(min(h, 1.0)))


def cumulative_m(points):
    """Metres along the line at each point."""
    total, out = 0.0, [0.0]
    for (lat_1, lon_1), (lat_2, lon_2) in pairwise(points):
        total += haversine_m(lat_1, lon_1, lat_2, lon_2)
        out.append(total)
    return out


def short_way(d_lon):
    """A difference of longitudes in degrees, between -180 and 180."""
    if d_lon > 180:
        return d_lon - 360
    if d_lon < -180:
        return d_lon + 360
    return d_lon


def flat(origin, other, scale):
    """East and north of `origin` in metres, with `scale` the cosine of the latitude to use."""
    return (
        math.radians(short_way(other[1] - origin[1])) * RADIUS_M * scale,
        math.radians(other[0] - origin[0]) * RADIUS_M,
    )


def project(points, s_m, i, position, low_m=0.0, high_m=math.inf):
    """Place on piece i of the line within [low_m, high_m], and the distance to it: (s, distance)."""
    a, b = points[i], points[i + 1]
    scale = math.cos(math.radians((a[0] + b[0]) / 2))
    bx, by = flat(a, b, scale)
    px, py = flat(a, position, scale)
    length = s_m[i + 1] - s_m[i]
    square = bx * bx + by * by
    t = min(max((px * bx + py * by) / square, 0.0), 1.0) if square > 0 else 0.0
    s = s_m[i] + t * length
    if not low_m <= s <= high_m:
        s = min(max(s, low_m), high_m)
        t = min(max((s - s_m[i]) / length, 0.0), 1.0) if length > 0 else 0.0
    return s, math.hypot(px - t * bx, py - t * by)


def leads_against(points, i, bearing_deg):
    """Whether piece i leads more than 90 degrees away from the bearing (None: unknown)."""
    if bearing_deg is None or math.isnan(bearing_deg):
        return False
    scale = math.cos(math.radians((points[i][0] + points[i + 1][0]) / 2))
    east, north = flat(points[i], points[i + 1], scale)
    return east * math.sin(math.radians(bearing_deg)) + north * math.cos(math.radians(bearing_deg)) < 0


def nearest_pass(points, s_m, position, bearing_deg, low_m, high_m, near_equal_m, penalty_m):
    """Best place in [low_m, high_m]: the first pass of the line that is near enough to the least cost.

    Cost of a place: root of distance squared + penalty squared where the line leads against the bearing.
    Returns (s, distance).
    """
    found = []
    for i in range(len(points) - 1):
        ends_before_range = i + 2 < len(points) and s_m[i + 1] <= low_m
        if ends_before_range or (found and s_m[i] >= high_m):
            continue
        s, distance = project(points, s_m, i, position, low_m, high_m)
        penalty = penalty_m if leads_against(points, i, bearing_deg) else 0.0
        scale = math.cos(math.radians((points[i][0] + points[i + 1][0]) / 2))
        joint = math.hypot(*flat(points[i], position, scale))
        found.append((math.hypot(distance, penalty), s, distance, joint))
    if not found:
        return low_m, math.inf
    reach = min(cost for cost, *_ in found) + near_equal_m
    best = None
    for cost, s, distance, joint in found:
        if best is None:
            if cost <= reach:
                best = (cost, s, distance)
            continue
        if cost > reach or joint > reach:
            break
        if cost**2 < best[0] ** 2 - 1e-3:
            best = (cost, s, distance)
    return best[1], best[2]
