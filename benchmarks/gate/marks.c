/* Tells valgrind which instructions to count: a client request is a no-op outside of it. */
#include <valgrind/callgrind.h>

int counted(void)
{
    return RUNNING_ON_VALGRIND != 0;
}

void count_start(void)
{
    CALLGRIND_START_INSTRUMENTATION;
}

void count_stop(const char *name)
{
    CALLGRIND_STOP_INSTRUMENTATION;
    CALLGRIND_DUMP_STATS_AT(name);
}
