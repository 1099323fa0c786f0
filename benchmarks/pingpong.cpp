// The floor under every latency figure: two pinned processes hand a number to and fro through shared memory.
//
//   pingpong spin TRIPS CORE CORE            half of each round trip
//   pingpong futex TRIPS CORE CORE PAUSE     from just before the store to the reader's wake-up; each side lets the
//                                            other sleep for PAUSE microseconds first
// Prints one-way nanoseconds as JSON: {"p50": …, "p90": …, …}
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
#include <cstring>
#include <ctime>
#include <new>
#include <string>
#include <vector>

namespace {

// 128 bytes apart: neighbouring cache lines are fetched in pairs.
struct Lines {
    alignas(128) std::atomic<std::uint32_t> ping;
    alignas(128) std::atomic<std::uint32_t> pong;
    alignas(128) std::int64_t sent;  // the time at which the answer was sent
};

[[noreturn]] void fail(const char* what) {
    std::perror(what);
    std::_Exit(1);
}

void pin(int core) {
    cpu_set_t cores;
    CPU_ZERO(&cores);
    CPU_SET(core, &cores);
    if (sched_setaffinity(0, sizeof cores, &cores) != 0) fail("sched_setaffinity");
}

long futex(std::atomic<std::uint32_t>& word, int operation, std::uint32_t value) {
    return syscall(SYS_futex, &word, operation, value, nullptr, nullptr, 0);
}

void publish(std::atomic<std::uint32_t>& word, std::uint32_t value, bool sleeping) {
    word.store(value, std::memory_order_release);
    if (sleeping) futex(word, FUTEX_WAKE, 1);
}

void await(std::atomic<std::uint32_t>& word, std::uint32_t value, bool sleeping) {
    std::uint32_t seen;
    while ((seen = word.load(std::memory_order_acquire)) != value) {
        if (seen != value - 1) {
            std::fprintf(stderr, "pingpong: saw %u while waiting for %u\n", seen, value);
            std::_Exit(1);
        }
        if (sleeping) futex(word, FUTEX_WAIT, seen);
    }
}

std::int64_t now() {
    timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec * 1'000'000'000LL + time.tv_nsec;
}

void pause(std::int64_t nanoseconds) {
    for (const std::int64_t start = now(); now() - start < nanoseconds;) {
    }
}

}  // namespace

int main(int count, char** arguments) {
    const std::string mode = count > 1 ? arguments[1] : "";
    const bool sleeping = mode == "futex";
    if (!(mode == "spin" && count == 5) && !(sleeping && count == 6)) {
        std::fprintf(stderr, "usage: pingpong spin TRIPS CORE CORE | pingpong futex TRIPS CORE CORE PAUSE\n");
        return 2;
    }
    const std::int64_t let_sleep = sleeping ? std::atoll(arguments[5]) * 1000 : 0;
    const auto trips = static_cast<std::uint32_t>(std::atoi(arguments[2]));
    const std::uint32_t warm_up = trips / 10;

    void* memory = mmap(nullptr, sizeof(Lines), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED) fail("mmap");
    auto* lines = new (memory) Lines{};

    const pid_t parent = getpid();
    const pid_t child = fork();
    if (child < 0) fail("fork");
    alarm(120);  // a watchdog of their own for both
    if (child == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        if (getppid() != parent) std::_Exit(1);
        pin(std::atoi(arguments[4]));
        for (std::uint32_t i = 1; i <= trips + warm_up; ++i) {
            await(lines->ping, i, sleeping);
            if (sleeping) {
                pause(let_sleep);
                lines->sent = now();
            }
            publish(lines->pong, i, sleeping);
        }
        std::_Exit(0);
    }

    pin(std::atoi(arguments[3]));
    std::vector<double> times(trips + warm_up);
    for (std::uint32_t i = 1; i <= trips + warm_up; ++i) {
        if (sleeping) pause(let_sleep);
        const std::int64_t start = now();
        publish(lines->ping, i, sleeping);
        await(lines->pong, i, sleeping);
        const std::int64_t end = now();
        times[i - 1] = sleeping ? end - lines->sent : (end - start) / 2.0;
    }
    int status = 0;
    if (waitpid(child, &status, 0) != child || status != 0) fail("the other process");

    times.erase(times.begin(), times.begin() + warm_up);
    std::sort(times.begin(), times.end());
    auto one_way = [&](double share) { return times[static_cast<std::size_t>(share * (times.size() - 1))]; };
    std::printf("{\"p50\": %.1f, \"p90\": %.1f, \"p99\": %.1f, \"p99.9\": %.1f}\n", one_way(0.5), one_way(0.9),
                one_way(0.99), one_way(0.999));
}
