// The floor under every latency figure: two pinned processes hand a number to and fro through shared memory.
//
//   pingpong spin TRIPS CORE CORE            half of each round trip
//   pingpong futex TRIPS CORE CORE PAUSE     from just before the store to the reader's wake-up; each side lets the
//                                            other sleep for PAUSE microseconds first
// Prints one-way nanoseconds as JSON: {"p50": …, "p90": …, …}
#include <string>

#include "bare.hpp"

namespace {

// 128 bytes apart: neighbouring cache lines are fetched in pairs.
struct Lines {
    alignas(128) std::atomic<std::uint32_t> ping;
    alignas(128) std::atomic<std::uint32_t> pong;
    alignas(128) std::int64_t sent;  // the time at which the answer was sent
};

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
    alarm(120);  // a watchdog of its own

    auto* lines = shared<Lines>();
    const pid_t child = start(std::atoi(arguments[4]), [&] {
        for (std::uint32_t i = 1; i <= trips + warm_up; ++i) {
            await(lines->ping, i, sleeping);
            if (sleeping) {
                spin(let_sleep);
                lines->sent = now();
            }
            publish(lines->pong, i, sleeping);
        }
    });

    pin(std::atoi(arguments[3]));
    std::vector<double> times(trips + warm_up);
    for (std::uint32_t i = 1; i <= trips + warm_up; ++i) {
        if (sleeping) spin(let_sleep);
        const std::int64_t start = now();
        publish(lines->ping, i, sleeping);
        await(lines->pong, i, sleeping);
        const std::int64_t end = now();
        times[i - 1] = sleeping ? end - lines->sent : (end - start) / 2.0;
    }
    finish(child);
    print_percentiles(std::move(times), warm_up);
}
