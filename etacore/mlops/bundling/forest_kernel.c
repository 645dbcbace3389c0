/*
 * A forest of regression trees, predicted by comparing small numbers in vectors.
 *
 * This file is compiled once for each path: FOREST_PATH names the path, FOREST_LANES says how many bytes a vector of
 * the wide kernel has (64: AVX-512 BW, 32: AVX2, undefined: plain C and no wide kernel). forest_tables.h holds the
 * numbers of one model, forest_tables.s its tables. Both are written by bitmask.py.
 *
 * 1. Bins. A tree only asks whether x < threshold. Let c_0 < c_1 < ... be all thresholds of a feature in the whole
 *    forest. How many of them are <= x, the bin of x, answers every such question: x < c_k if and only if
 *    bin <= k. From here on there are no floats, only small integers.
 *
 *    NaN is missing, and a split says where missing goes. The narrow kernel has one more bin for it. The wide kernel
 *    puts it into the first bin (everything goes left) or the last (everything goes right), in a column of its own
 *    for each direction that the forest uses.
 *
 * 2. Narrow kernel: few rows, or trees of any shape. Trees lie in lanes. The leaves of a tree are numbered from left
 *    to right, one bit each. When a row goes right at a split, it cannot reach the leaves left of that split; when it
 *    goes left, not those right of it. For each bin of each feature there is a table row with one mask a tree, in which
 *    the leaves that this bin excludes are 0. AND over the features leaves the one leaf that no feature excludes:
 *    any other one lies on the other side of some split. (This is QuickScorer, Lucchese et al., SIGIR 2015, with
 *    the masks of a feature multiplied beforehand, and with both sides, so that no first 1 has to be looked for.)
 *    Features that are in one bin for all rows at hand, such as the hour of a fleet, are ANDed once.
 *
 * 3. Wide kernel: many rows, trees at most 6 splits deep. Rows lie in lanes, one byte each, and all walk down a tree
 *    at once. `at` holds the decisions of a row, the first one in the lowest bit: it numbers the nodes of a level.
 *    The seven nodes of the first three levels are simply all compared. Below, every feature that a level uses is
 *    visited once: a byte shuffle looks up the cut of each row's node, and nodes that split by another feature have
 *    the cut NEVER. So at most one visit of a level says that a row goes right:
 *
 *        right = OR over the level's features of (bin of the feature > cut[at])
 *
 *    All decisions together number the leaf. AVX-512 looks up floats, for every fourth row at a time. AVX2 looks up
 *    their bytes, of the left and the right leaf, and the last decision chooses; unpacking puts them together.
 *
 *    Bins are stored as 126 - bin, so that "bin > k" is "cut > stored". A byte holds 254 thresholds, and a feature
 *    with more has more columns. Columns that are the same in all rows of a block are compared before the walk,
 *    once, and disappear from the tree. AVX-512 does not compare, it subtracts: comparisons write mask registers,
 *    which one port of the CPU does, and signs of differences can be blended and ORed on two.
 *
 * Order of summation: in both kernels base score, first tree, second tree, ... in float32, one after the other, for
 * every row: that of XGBoost, so the sums are the same to the last bit.
 */
#include <stdint.h>
#include <string.h>

#include "forest_tables.h"

#ifdef FOREST_LANES
#ifdef FOREST_EMULATED
#define SIMDE_ENABLE_NATIVE_ALIASES
#include <simde/x86/avx512.h>
#else
#include <immintrin.h>
#endif
#endif

#define PASTE(a, b) a##b
#define NAME(a, b) PASTE(a, b)
#define INLINE static inline __attribute__((always_inline))
#define ALIGNED __attribute__((aligned(64)))
#define TABLE extern __attribute__((visibility("hidden"))) const
#define MIN(a, b) ((a) < (b) ? (a) : (b))
#if defined FOREST_LANES && FOREST_LANES == 64
#define VECTOR __attribute__((vector_size(64), aligned(64), may_alias))
#else
#define VECTOR __attribute__((vector_size(32), aligned(32), may_alias))
#endif

/* The cuts of a feature as a tree, level after level: nodes of 8 cuts and 9 children, for AVX-512 of 16 and 17. */
typedef struct {
    int32_t n_levels, level[4]; /* where each level begins, in nodes */
} search_t;

/* A feature that the forest uses. */
typedef struct {
    int32_t column, n_cuts;      /* column of X */
    search_t by_8, by_16;
    int32_t first_mask;          /* row of the mask table for bin 0; NaN follows the last bin */
    int32_t first_byte, n_bytes; /* its byte columns in the wide kernel */
} feature_t;

/* A column of bins in the wide kernel: thresholds from `first` on; `missing` is the bin of NaN. */
typedef struct {
    int32_t first, missing;
} byte_column_t;

TABLE feature_t forest_features[];
TABLE mask_t forest_masks[][N_MASK_ROWS][GROUP];
TABLE float forest_leaves[][GROUP][MASK_BITS];

/* ---- bins ---- */

#if defined FOREST_LANES && FOREST_LANES == 64
#define SEARCH by_16
#define CUTS forest_cuts_16
#define NODE 16
INLINE uint32_t count_cuts(const float *cuts, float x)
{
    return (uint32_t)__builtin_popcount(_mm512_cmp_ps_mask(_mm512_load_ps(cuts), _mm512_set1_ps(x), _CMP_LE_OQ));
}
#else
#define SEARCH by_8
#define CUTS forest_cuts_8
#define NODE 8
#ifdef FOREST_LANES
INLINE uint32_t count_cuts(const float *cuts, float x)
{
    __m256 below = _mm256_cmp_ps(_mm256_load_ps(cuts), _mm256_set1_ps(x), _CMP_LE_OQ);
    return (uint32_t)__builtin_popcount((unsigned)_mm256_movemask_ps(below));
}
#else
typedef float floats4_t __attribute__((vector_size(16)));
typedef int32_t ints4_t __attribute__((vector_size(16)));
INLINE uint32_t count_cuts(const float *cuts, float x)
{
    const floats4_t *c = (const floats4_t *)cuts;
    ints4_t n = (c[0] <= x) + (c[1] <= x); /* true is -1 */
    return (uint32_t)-(n[0] + n[1] + n[2] + n[3]);
}
#endif
#endif
TABLE float CUTS[][NODE];

INLINE int32_t find_bin_in(const feature_t *feature, float x, const int n_levels)
{
    uint32_t node = 0;
    for (int k = 0; k < n_levels; k++)
        node = (NODE + 1) * node + count_cuts(CUTS[(uint32_t)feature->SEARCH.level[k] + node], x);
    return (int32_t)node; /* 0 for NaN: no comparison with it is true */
}

INLINE int32_t find_bin(const feature_t *feature, float x)
{
    switch (feature->SEARCH.n_levels) {
    case 1: return find_bin_in(feature, x, 1);
    case 2: return find_bin_in(feature, x, 2);
    case 3: return find_bin_in(feature, x, 3);
    default: return find_bin_in(feature, x, 4);
    }
}

INLINE uint32_t bits_of(const float *x)
{
    uint32_t bits;
    memcpy(&bits, x, sizeof bits);
    return bits;
}

/* ---- narrow kernel ---- */

#define NARROW_ROWS 256 /* rows that share a pass over the masks of a group of trees */
#define UNIT 8          /* rows whose sums grow side by side: an addition waits for the one before it */
#ifdef FOREST_LANES
#define STRIP MIN(8, N_VECTORS) /* vectors that are ANDed in registers */
#else
#define STRIP 4
#endif
typedef mask_t masks_t VECTOR;
#define N_LANES ((int)(sizeof(masks_t) / sizeof(mask_t)))
#define N_VECTORS (GROUP / N_LANES)

/* Leaves of the trees of a vector of masks, in which each is the only 1. A power of two has, as a float, its number
 * plus 127 in the bits from 23 on; the bit above is the sign, which the last leaf gets. */
#if defined FOREST_LANES && MASK_BITS == 32
#define FIRST_LEAF 127
typedef int32_t signed_masks_t VECTOR;
typedef float mask_floats_t VECTOR;
#define LEAVES(v) (((masks_t)__builtin_convertvector((signed_masks_t)(v), mask_floats_t) >> 23) & 255)
#else
#define LEAVES(v) (v)
#endif

/* A tree that is not there, beside the last one, has the leaf -0.0: it changes no sum. */
INLINE void add_leaves(mask_t leaf[UNIT][GROUP], const float (*values)[MASK_BITS], int n_trees, float *sums,
                       const int n)
{
    float sum[UNIT];
    for (int r = 0; r < n; r++)
        sum[r] = sums[r];
#ifdef FIRST_LEAF
#pragma GCC unroll 2
    for (int t = 0; t < n_trees; t += 2) {
        uint64_t two[UNIT]; /* one load for two leaves: there are more loads than additions */
        for (int r = 0; r < n; r++)
            memcpy(&two[r], &leaf[r][t], 8);
        for (int r = 0; r < n; r++)
            sum[r] += values[t][(size_t)(uint32_t)two[r] - FIRST_LEAF];
        for (int r = 0; r < n; r++)
            sum[r] += values[t + 1][(size_t)(two[r] >> 32) - FIRST_LEAF];
    }
#else
#pragma GCC unroll 4
    for (int t = 0; t < n_trees; t++)
        for (int r = 0; r < n; r++)
            sum[r] += values[t][(unsigned)FIRST_BIT(leaf[r][t])];
#endif
    for (int r = 0; r < n; r++)
        sums[r] = sum[r];
}

/* Rows of the mask table for the values of a feature; returns whether it is one and the same. */
INLINE int find_mask_rows(const feature_t *feature, const float *x, int n, uint16_t *row, const int n_levels)
{
    int same = 1;
    for (int r = 0; r < n; r++) {
        float value = x[r * N_FEATURES];
        int bin = value != value ? feature->n_cuts + 1 : find_bin_in(feature, value, n_levels);
        row[r * N_USED] = (uint16_t)(feature->first_mask + bin);
        same &= row[r * N_USED] == row[0];
    }
    return same;
}

static void narrow(const float *X, int n, float *out)
{
    uint16_t mask_row[NARROW_ROWS][N_USED];
    int varying[N_USED], constant[N_USED], n_varying = 0, n_constant = 0;
    uint32_t differs[N_FEATURES] = {0};
    for (int r = 1; r < n; r++)
        for (int j = 0; j < N_FEATURES; j++)
            differs[j] |= bits_of(X + r * N_FEATURES + j) ^ bits_of(X + j);
    for (int f = 0; f < N_USED; f++) {
        const feature_t *feature = &forest_features[f];
        const float *x = X + feature->column;
        const int n_values = differs[feature->column] ? n : 1;
        int same = 1;
        switch (feature->SEARCH.n_levels) {
#define CASE(k) case k: same = find_mask_rows(feature, x, n_values, &mask_row[0][f], k); break;
            CASE(1) CASE(2) CASE(3) CASE(4)
#undef CASE
        }
        if (same)
            constant[n_constant++] = f;
        else
            varying[n_varying++] = f;
    }
    for (int r = 0; r < n; r++)
        out[r] = BASE_SCORE;
#define MASKS(r, f) ((const masks_t *)forest_masks[g][mask_row[r][f]])
    for (int g = 0; g < N_GROUPS; g++) {
        const int n_trees = MIN(N_TREES - g * GROUP, GROUP);
        const int n_vectors = (n_trees + N_LANES - 1) / N_LANES;
        mask_t leaf[UNIT][GROUP] ALIGNED;
        masks_t common[N_VECTORS];
        for (int w = 0; w < n_vectors; w += STRIP) {
            masks_t v[STRIP];
            for (int i = 0; i < STRIP; i++)
                v[i] = ~(masks_t){0};
            for (int k = 0; k < n_constant; k++)
                for (int i = 0; i < STRIP; i++)
                    v[i] &= MASKS(0, constant[k])[w + i];
            for (int i = 0; i < STRIP; i++)
                common[w + i] = v[i];
        }
        for (int first = 0; first < n; first += UNIT) {
            const int m = MIN(n - first, UNIT);
            for (int r = 0; r < m; r++) {
                int w = 0;
                for (; w <= n_vectors - STRIP; w += STRIP) {
                    masks_t v[STRIP];
                    for (int i = 0; i < STRIP; i++)
                        v[i] = common[w + i];
                    for (int k = 0; k < n_varying; k++)
                        for (int i = 0; i < STRIP; i++)
                            v[i] &= MASKS(first + r, varying[k])[w + i];
                    for (int i = 0; i < STRIP; i++)
                        ((masks_t *)leaf[r])[w + i] = LEAVES(v[i]);
                }
                for (; w < n_vectors; w++) {
                    masks_t v = common[w];
                    for (int k = 0; k < n_varying; k++)
                        v &= MASKS(first + r, varying[k])[w];
                    ((masks_t *)leaf[r])[w] = LEAVES(v);
                }
            }
            switch (m) {
#define CASE(k) case k: add_leaves(leaf, forest_leaves[g], n_trees, out + first, k); break;
                CASE(1) CASE(2) CASE(3) CASE(4) CASE(5) CASE(6) CASE(7) CASE(8)
#undef CASE
            }
        }
    }
#undef MASKS
}

/* ---- wide kernel ---- */

#if defined FOREST_LANES && WIDE_LEVELS
/* A decision is the sign of a byte; flags are decisions as blends want them. */
#if FOREST_LANES == 64
typedef __m512i bytes_t;
typedef __m512 floats_t;
typedef __mmask64 flags_t;
#define OP(name) NAME(_mm512_, name)
#define LOAD(p) _mm512_load_si512((const void *)(p))
#define REPEAT4(x) _mm512_set1_epi32((int)(x))
#define REPEAT16(p) _mm512_broadcast_i32x4(_mm_load_si128((const __m128i *)(p)))
#define ZERO _mm512_setzero_si512()
#define IS_BELOW(bins, cut) _mm512_subs_epi8(bins, cut)
#define EITHER(a, b) _mm512_or_si512(a, b)
#define FLAGS(a) _mm512_movepi8_mask(a)
#define CHOOSE(f, no, yes) _mm512_mask_blend_epi8(f, no, yes)
#define ADD_IF(f, a, x) _mm512_mask_add_epi8(a, f, a, _mm512_set1_epi8(x))
#else
typedef __m256i bytes_t;
typedef __m256 floats_t;
typedef __m256i flags_t;
#define OP(name) NAME(_mm256_, name)
#define LOAD(p) _mm256_load_si256((const __m256i *)(p))
#define REPEAT4(x) _mm256_set1_epi32((int)(x))
#define REPEAT16(p) _mm256_broadcastsi128_si256(_mm_load_si128((const __m128i *)(p)))
#define ZERO _mm256_setzero_si256()
#define IS_BELOW(bins, cut) _mm256_cmpgt_epi8(cut, bins) /* true is -1 */
#define EITHER(a, b) _mm256_or_si256(a, b)
#define FLAGS(a) (a)
#define CHOOSE(f, no, yes) _mm256_blendv_epi8(no, yes, f)
#define ADD_IF(f, a, x) _mm256_or_si256(a, _mm256_and_si256(f, _mm256_set1_epi8(x)))
#endif

#define LANES FOREST_LANES
#define PAIR 2                   /* vectors of rows that walk side by side */
#define TILE (PAIR * LANES)      /* rows of a walk */
#define N_TILES (BLOCK / TILE)   /* BLOCK is a multiple of 128: rows that are binned, then walk, tree by tree */
#define QUARTER (LANES / 4)      /* floats in a vector */
#define WIDE_ROWS 20             /* fewer rows are left to the narrow kernel */
#define SPECIALISED_ROWS 256     /* fewer rows are not worth it */
#define NEVER (-128)
#define ALWAYS 127
#define SIXTH (WIDE_LEVELS == 3) /* 32 nodes on the last level: two tables, by the fifth decision */
#define LAST (WIDE_LEVELS - 1)

typedef int8_t table_t __attribute__((vector_size(16), aligned(16), may_alias));

/* Trees as they are walked; a specialised copy has the same shape. */
typedef struct {
    const uint32_t (*top_cuts)[7];    /* for each tree: cuts of its first seven nodes, each byte the same */
    const uint16_t (*top_columns)[8]; /* and where the columns of these nodes begin in the bins */
    const uint8_t *n_visits;          /* for each tree and level below: how many features it uses, at least 1 */
    const table_t *visits;            /* for each visit: cut[at] */
    const uint16_t *columns;          /* for each visit: where its column begins */
} walk_t;

TABLE uint32_t forest_top_cuts[][7];
TABLE uint16_t forest_top_columns[][8];
TABLE uint8_t forest_n_visits[];
TABLE int8_t forest_visits[][16];
#if LANES == 64
TABLE float forest_values[][2 + 2 * SIXTH][16]; /* for each tree: leaves by the number of all decisions */
typedef const float (*leaves_t)[2 + 2 * SIXTH][16];
#define LEAVES_OF(t) (forest_values + (t))
#else
TABLE uint8_t forest_planes[][4][2][1 + SIXTH][16]; /* for each tree and byte of a float: left leaves, right leaves */
typedef const table_t (*leaves_t)[4][2][1 + SIXTH];
#define LEAVES_OF(t) ((leaves_t)forest_planes + (t))
#endif
TABLE uint16_t forest_columns[];
TABLE uint32_t forest_chunks[][2]; /* first visit, and first table of visits, of each CHUNK of trees */
TABLE byte_column_t forest_byte_columns[];

/* By the low four bits of `at`; of two tables, the flags of the fifth decision choose. */
INLINE bytes_t look_up(const table_t *table, bytes_t at, flags_t fifth, int two)
{
    (void)fifth;
    bytes_t found = OP(shuffle_epi8)(REPEAT16(table), at);
    return two ? CHOOSE(fifth, found, OP(shuffle_epi8)(REPEAT16(table + 1), at)) : found;
}

#if LANES == 64
/* Every fourth row at a time: a permute looks at the low five bits of each 32, whatever is above them. */
INLINE void add_leaves_wide(leaves_t leaves, bytes_t at, flags_t fifth, flags_t last, floats_t sum[4])
{
    (void)fifth;
    at = ADD_IF(last, at, 8 << LAST);
    const floats_t low = OP(load_ps)((*leaves)[0]), high = OP(load_ps)((*leaves)[1]);
    for (int q = 0; q < 4; q++) {
        const bytes_t which = OP(srli_epi32)(at, 8 * (unsigned)q);
        floats_t leaf = OP(permutex2var_ps)(low, which, high);
#if SIXTH
        floats_t other = OP(permutex2var_ps)(OP(load_ps)((*leaves)[2]), which, OP(load_ps)((*leaves)[3]));
        leaf = OP(mask_blend_ps)(OP(test_epi32_mask)(which, OP(set1_epi32)(32)), leaf, other);
#endif
        sum[q] = OP(add_ps)(sum[q], leaf);
    }
}
#define ROW(q, i) (4 * (i) + (q)) /* that the i-th float of sum q belongs to */
#else
/* Byte by byte of the floats; unpacking puts them together, 16 rows at a time. */
INLINE void add_leaves_wide(leaves_t leaves, bytes_t at, flags_t fifth, flags_t last, floats_t sum[4])
{
    bytes_t plane[4];
    for (int b = 0; b < 4; b++)
        plane[b] = CHOOSE(last, look_up((*leaves)[b][0], at, fifth, SIXTH), look_up((*leaves)[b][1], at, fifth, SIXTH));
    bytes_t low_a = OP(unpacklo_epi8)(plane[0], plane[1]), low_b = OP(unpackhi_epi8)(plane[0], plane[1]);
    bytes_t high_a = OP(unpacklo_epi8)(plane[2], plane[3]), high_b = OP(unpackhi_epi8)(plane[2], plane[3]);
    sum[0] = OP(add_ps)(sum[0], OP(castsi256_ps)(OP(unpacklo_epi16)(low_a, high_a)));
    sum[1] = OP(add_ps)(sum[1], OP(castsi256_ps)(OP(unpackhi_epi16)(low_a, high_a)));
    sum[2] = OP(add_ps)(sum[2], OP(castsi256_ps)(OP(unpacklo_epi16)(low_b, high_b)));
    sum[3] = OP(add_ps)(sum[3], OP(castsi256_ps)(OP(unpackhi_epi16)(low_b, high_b)));
}
#define ROW(q, i) (16 * ((i) / 4) + 4 * (q) + (i) % 4) /* that the i-th float of sum q belongs to */
#endif

INLINE void walk_trees(walk_t p, leaves_t leaves, int n_trees, const int8_t *bins, floats_t (*sums)[4], const int n)
{
    floats_t sum[PAIR][4];
    for (int u = 0; u < n; u++)
        for (int q = 0; q < 4; q++)
            sum[u][q] = sums[u][q];
    for (int t = 0; t < n_trees; t++) {
        bytes_t at[PAIR], right[PAIR];
        flags_t fifth[PAIR], last[PAIR];
        for (int u = 0; u < n; u++) {
#define RIGHT(k) IS_BELOW(LOAD(bins + p.top_columns[t][k] + u * LANES), REPEAT4(p.top_cuts[t][k]))
            flags_t f0 = FLAGS(RIGHT(0)), f1 = FLAGS(CHOOSE(f0, RIGHT(1), RIGHT(2)));
            flags_t f2 = FLAGS(CHOOSE(f1, CHOOSE(f0, RIGHT(3), RIGHT(5)), CHOOSE(f0, RIGHT(4), RIGHT(6))));
#undef RIGHT
            at[u] = ADD_IF(f2, ADD_IF(f1, ADD_IF(f0, ZERO, 1), 2), 4);
        }
#pragma GCC unroll 3
        for (int level = 0; level < WIDE_LEVELS; level++) {
            const int two = SIXTH && level == LAST;
#define VISIT(u) IS_BELOW(LOAD(bins + *p.columns + (u) * LANES), look_up(p.visits, at[u], fifth[u], two))
            for (int u = 0; u < n; u++)
                right[u] = VISIT(u);
            for (int k = *p.n_visits++;;) {
                p.columns++;
                p.visits += 1 + two;
                if (--k == 0)
                    break;
                for (int u = 0; u < n; u++)
                    right[u] = EITHER(right[u], VISIT(u));
            }
#undef VISIT
            for (int u = 0; u < n; u++) {
                last[u] = FLAGS(right[u]);
                if (level == 1)
                    fifth[u] = last[u];
                if (level < LAST)
                    at[u] = ADD_IF(last[u], at[u], 8 << level);
            }
        }
        for (int u = 0; u < n; u++)
            add_leaves_wide(leaves, at[u], fifth[u], last[u], sum[u]);
        leaves++;
    }
    for (int u = 0; u < n; u++)
        for (int q = 0; q < 4; q++)
            sums[u][q] = sum[u][q];
}

/* Out of line, so that each has the registers for itself. */
static __attribute__((noinline)) void walk_two(const walk_t *p, leaves_t leaves, int n_trees,
                                                const int8_t *bins, floats_t (*sums)[4])
{
    walk_trees(*p, leaves, n_trees, bins, sums, 2);
}

static __attribute__((noinline)) void walk_one(const walk_t *p, leaves_t leaves, int n_trees,
                                                const int8_t *bins, floats_t (*sums)[4])
{
    walk_trees(*p, leaves, n_trees, bins, sums, 1);
}

INLINE void find_bins(const feature_t *feature, const float *value, int32_t *bin, const int n_levels)
{
    bin[0] = find_bin_in(feature, value[0], n_levels);
    for (int r = 1; r < 128; r++)
        bin[r] = bits_of(value + r) == bits_of(value + r - 1) ? bin[r - 1] : find_bin_in(feature, value[r], n_levels);
}

/* Bins of 128 rows, or of the last `n`; the rows that are missing repeat the first. */
static void fill_bins(const float *X, int n, int8_t bins[N_BYTE_COLUMNS][128])
{
    uint32_t differs[N_FEATURES] = {0};
    for (int r = 1; r < n; r++)
        for (int j = 0; j < N_FEATURES; j++)
            differs[j] |= bits_of(X + r * N_FEATURES + j) ^ bits_of(X + j);
    for (int f = 0; f < N_USED; f++) {
        const feature_t *feature = &forest_features[f];
        const float *x = X + feature->column;
        float value[128] ALIGNED;
        int32_t bin[128] ALIGNED;
        if (differs[feature->column] == 0) {
            bin[0] = find_bin(feature, *x);
            value[0] = *x;
            for (int c = feature->first_byte; c < feature->first_byte + feature->n_bytes; c++) {
                int32_t b = (value[0] != value[0] ? forest_byte_columns[c].missing : bin[0]) - forest_byte_columns[c].first;
                memset(bins[c], 126 - (b < 0 ? 0 : b > 254 ? 254 : b), 128);
            }
            continue;
        }
        for (int r = 0; r < n; r++)
            value[r] = x[r * N_FEATURES];
        for (int r = n; r < 128; r++)
            value[r] = value[0];
        if (feature->SEARCH.n_levels == 1) {
            memset(bin, 0, sizeof bin);
            for (int k = 0; k < feature->n_cuts; k++) {
                float cut = CUTS[feature->SEARCH.level[0]][k];
                for (int r = 0; r < 128; r++)
                    bin[r] += cut <= value[r];
            }
        } else if (feature->SEARCH.n_levels == 2) {
            find_bins(feature, value, bin, 2);
        } else if (feature->SEARCH.n_levels == 3) {
            find_bins(feature, value, bin, 3);
        } else {
            find_bins(feature, value, bin, 4);
        }
        for (int c = feature->first_byte; c < feature->first_byte + feature->n_bytes; c++) {
            int32_t first_cut = forest_byte_columns[c].first, missing = forest_byte_columns[c].missing;
            for (int r = 0; r < 128; r++) {
                int32_t b = (value[r] != value[r] ? missing : bin[r]) - first_cut;
                b = b < 0 ? 0 : b;
                b = b > 254 ? 254 : b;
                bins[c][r] = (int8_t)(126 - b);
            }
        }
    }
}

/* Trees with the comparisons of constant columns made. */
typedef struct {
    uint32_t top_cuts[CHUNK][7];
    uint8_t n_visits[CHUNK * WIDE_LEVELS];
    table_t visits[MAX_VISITS];
    uint16_t columns[MAX_VISITS];
} special_t;

/* Of each level the columns that vary are kept, or one of the others. What constant columns decide goes into the
 * first table that is kept: nodes that split by another feature have NEVER there. */
static walk_t specialise(walk_t p, int n_trees, const int8_t *bins, const uint8_t *constant, special_t *s)
{
    for (int t = 0; t < n_trees; t++)
        for (int k = 0; k < 7; k++) {
            int c = p.top_columns[t][k];
            uint32_t cut = p.top_cuts[t][k];
            s->top_cuts[t][k] = !constant[c / 128] ? cut : (uint8_t)((int8_t)cut > bins[c] ? ALWAYS : NEVER) * 0x01010101u;
        }
    int visit = 0, kept = 0, table_in = 0, table_out = 0;
    for (int i = 0; i < n_trees * WIDE_LEVELS; i++) {
        const int n_tables = i % WIDE_LEVELS == LAST ? 1 + SIXTH : 1, first = kept, first_table = table_out;
        table_t right[1 + SIXTH] = {{0}};
        for (int k = p.n_visits[i]; k > 0; k--, visit++, table_in += n_tables) {
            const uint16_t c = p.columns[visit];
            const int is_constant = constant[c / 128];
            for (int h = 0; h < n_tables; h++)
                if (is_constant)
                    right[h] |= p.visits[table_in + h] > bins[c];
                else
                    s->visits[table_out++] = p.visits[table_in + h];
            if (!is_constant)
                s->columns[kept++] = c;
        }
        if (kept == first) {
            s->columns[kept++] = p.columns[visit - 1];
            for (int h = 0; h < n_tables; h++)
                s->visits[table_out++] = (table_t){0} + NEVER;
        }
        for (int h = 0; h < n_tables; h++)
            s->visits[first_table + h] = (s->visits[first_table + h] & ~right[h]) | (ALWAYS & right[h]);
        s->n_visits[i] = (uint8_t)(kept - first);
    }
    return (walk_t){s->top_cuts, p.top_columns, s->n_visits, s->visits, s->columns};
}

static void wide(const float *X, int n, float *out)
{
    int8_t bins[BLOCK / 128][N_BYTE_COLUMNS][128] ALIGNED;
    floats_t sums[N_TILES][PAIR][4];
    uint8_t constant[N_BYTE_COLUMNS] = {0};
    int n_constant = 0;
    const int n_tiles = (n + TILE - 1) / TILE, last_rows = n - (n_tiles - 1) * TILE;
    for (int i = 0; i * 128 < n; i++)
        fill_bins(X + (size_t)i * 128 * N_FEATURES, MIN(n - i * 128, 128), bins[i]);
    if (n >= SPECIALISED_ROWS)
        for (int c = 0; c < N_BYTE_COLUMNS; c++) {
            int differs = 0;
            for (int i = 0; i * 128 < n && !differs; i++)
                differs = bins[i][c][0] != bins[0][c][0] || memcmp(bins[i][c], bins[i][c] + 1, 127) != 0;
            constant[c] = !differs;
            n_constant += !differs;
        }
    for (int i = 0; i < n_tiles; i++)
        for (int u = 0; u < PAIR; u++)
            for (int q = 0; q < 4; q++)
                sums[i][u][q] = OP(set1_ps)(BASE_SCORE);
    for (int first = 0, chunk = 0; first < N_TREES; first += CHUNK, chunk++) {
        const int n_trees = MIN(N_TREES - first, CHUNK);
        special_t special;
        walk_t p = {
            forest_top_cuts + first,
            forest_top_columns + first,
            forest_n_visits + first * WIDE_LEVELS,
            (const table_t *)forest_visits + forest_chunks[chunk][1],
            forest_columns + forest_chunks[chunk][0],
        };
        if (n_constant > 0)
            p = specialise(p, n_trees, bins[0][0], constant, &special);
        for (int i = 0; i < n_tiles; i++) {
            const int8_t *tile = bins[i * TILE / 128][0] + i * TILE % 128;
            if (i == n_tiles - 1 && last_rows <= LANES)
                walk_one(&p, LEAVES_OF(first), n_trees, tile, sums[i]);
            else
                walk_two(&p, LEAVES_OF(first), n_trees, tile, sums[i]);
        }
    }
    for (int i = 0; i < n_tiles; i++) {
        float row[TILE];
        for (int u = 0; u < PAIR; u++)
            for (int q = 0; q < 4; q++)
                for (int k = 0; k < QUARTER; k++)
                    row[u * LANES + ROW(q, k)] = sums[i][u][q][k];
        memcpy(out + (size_t)i * TILE, row, (size_t)(i < n_tiles - 1 ? TILE : last_rows) * sizeof *row);
    }
}
#endif

/* Predict `n` rows of N_FEATURES floats each. */
__attribute__((visibility("hidden"))) void NAME(forest_rows_, FOREST_PATH)(const float *X, int64_t n, float *out)
{
    while (n > 0) {
        int m;
#ifdef TILE
        if (n >= WIDE_ROWS) {
            m = (int)MIN(n, BLOCK);
            if (m > TILE && m % TILE < WIDE_ROWS) /* a short rest is left to the narrow kernel */
                m -= m % TILE;
            wide(X, m, out);
        } else
#endif
            narrow(X, m = (int)MIN(n, NARROW_ROWS), out);
        X += (size_t)m * N_FEATURES;
        out += m;
        n -= m;
    }
}
