/*
 * The functions that a forest's library shows to whoever maps it: those of tl2cgen's libraries, for one row, and
 * the forest's own, for many rows, one for each path of forest_kernel.c.
 */
#include <stdint.h>
#ifdef LINK_FUNCTION
#include <math.h>
#endif

#include "forest_tables.h"

#ifndef LINK_FUNCTION
#define LINK_FUNCTION(x) (x)
#endif

#define EXPORT __attribute__((visibility("default")))
#define PATH(name)                                                                                                     \
    __attribute__((visibility("hidden"))) void forest_rows_##name(const float *X, int64_t n, float *out);              \
    EXPORT void forest_predict_##name(const float *X, int64_t n, float *out)                                           \
    {                                                                                                                  \
        forest_rows_##name(X, n, out);                                                                                 \
        for (int64_t r = 0; r < n; r++)                                                                                \
            out[r] = LINK_FUNCTION(out[r]);                                                                            \
    }

PATH(portable)
#ifdef __x86_64__
PATH(avx2)
PATH(avx512)
#endif

/* Paths that this CPU and this system can run, the fastest first, separated by spaces. */
EXPORT const char *forest_paths(void)
{
#ifdef FOREST_EMULATED
    return "avx512 avx2 portable";
#elif defined __x86_64__
    __builtin_cpu_init();
    /* gcc and clang ask the system too, whether it saves the wide registers. */
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("bmi") && __builtin_cpu_supports("popcnt"))
        return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") ? "avx512 avx2 portable"
                                                                                      : "avx2 portable";
    return "portable";
#else
    return "portable";
#endif
}

EXPORT void predict(const float *row, int margin_only, float *result)
{
    float sum;
    forest_rows_portable(row, 1, &sum);
    *result += margin_only ? sum : LINK_FUNCTION(sum);
}

EXPORT int32_t get_num_feature(void)
{
    return N_FEATURES;
}

EXPORT int32_t get_num_target(void)
{
    return 1;
}

EXPORT void get_num_class(int32_t *out)
{
    *out = 1;
}

EXPORT const char *get_threshold_type(void)
{
    return "float32";
}

EXPORT const char *get_leaf_output_type(void)
{
    return "float32";
}
