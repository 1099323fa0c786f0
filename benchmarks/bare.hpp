// What the bare loops share: a pinned process, a futex word to hand over by, a clock, percentiles as JSON.
#pragma once

#include <linux/futex.h>
#include <sched.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <csignal>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <ctime>
#include <new>
#include <vector>

[[noreturn]] inline void fail(const char* what) {
    std::perror(what);
    std::_Exit(1);
}

inline void pin(int core) {
    cpu_set_t cores;
    CPU_ZERO(&cores);
    CPU_SET(core, &cores);
    if (sched_setaffinity(0, sizeof cores, &cores) != 0) fail("sched_setaffinity");
}

/// Zeroed memory that children share.
template <class T>
T* shared() {
    void* memory = mmap(nullptr, sizeof(T), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED) fail("mmap");
    return new (memory) T{};
}

/// A process that runs `work`, pinned, and goes when its parent does.
template <class Work>
pid_t start(int core, Work&& work) {
    const pid_t parent = getpid();
    const pid_t child = fork();
    if (child < 0) fail("fork");
    if (child != 0) return child;
    alarm(120);  // a watchdog of its own
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (getppid() != parent) std::_Exit(1);
    pin(core);
    work();
    std::_Exit(0);
}

inline void finish(pid_t child) {
    int status = 0;
    if (waitpid(child, &status, 0) != child || status != 0) fail("another process");
}

inline long futex(std::atomic<std::uint32_t>& word, int operation, std::uint32_t value) {
    return syscall(SYS_futex, &word, operation, value, nullptr, nullptr, 0);
}

inline void publish(std::atomic<std::uint32_t>& word, std::uint32_t value, bool sleeping) {
    word.store(value, std::memory_order_release);
    if (sleeping) futex(word, FUTEX_WAKE, 1);
}

inline void await(std::atomic<std::uint32_t>& word, std::uint32_t value, bool sleeping) {
    std::uint32_t seen;
    while ((seen = word.load(std::memory_order_acquire)) != value) {
        if (seen != value - 1) {
            std::fprintf(stderr, "saw %u while waiting for %u\n", seen, value);
            std::_Exit(1);
        }
        if (sleeping) futex(word, FUTEX_WAIT, seen);
    }
}

inline std::int64_t now() {
    timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec * 1'000'000'000LL + time.tv_nsec;
}

inline void spin(std::int64_t nanoseconds) {
    for (const std::int64_t start = now(); now() - start < nanoseconds;) {
    }
}

/// Prints nanoseconds, without the first `warm_up`, as JSON: {"p50": …, "p90": …, …}
inline void print_percentiles(std::vector<double> times, std::size_t warm_up) {
    times.erase(times.begin(), times.begin() + static_cast<std::ptrdiff_t>(warm_up));
    std::sort(times.begin(), times.end());
    auto at = [&](double share) { return times[static_cast<std::size_t>(share * (times.size() - 1))]; };
    std::printf("{\"p50\": %.1f, \"p90\": %.1f, \"p99\": %.1f, \"p99.9\": %.1f}\n", at(0.5), at(0.9), at(0.99), at(0.999));
}
